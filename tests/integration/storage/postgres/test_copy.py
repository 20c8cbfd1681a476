"""COPY: what is raised while rows are sent, and what is logged of it."""

import logging
import sys
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import EngineDown
from backend.runtime.log_format import LineFormatter, log_uncaught_exceptions
from backend.storage.postgres.copy import COPY_LINES_PER_READ, copy_rows
from backend.storage.postgres.database import Database
from tests.conftest import Engines
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import wait_until

SECRET = "a private text"


def copy_until_terminated(database: Database, engines: Engines) -> None:
    """COPY rows; PostgreSQL ends the connection after the first ones."""
    with database.begin() as tx:
        tx.execute(text("CREATE TEMPORARY TABLE line (body text)"))
        pid = tx.scalar(text("SELECT pg_backend_pid()"))
        remaining = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"

        def lines() -> Iterator[str]:
            yield from [f"{SECRET}\n"] * COPY_LINES_PER_READ
            engines.postgres.execute(f"SELECT pg_terminate_backend({pid})")
            wait_until(lambda: engines.postgres.query(remaining) == 0)
            yield from [f"{SECRET}\n"] * (100 * COPY_LINES_PER_READ)

        copy_rows(tx, "line", ["body"], lines())


def test_a_connection_lost_during_copy_quotes_no_row(
    backend: Backend,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """psycopg2 reports PostgreSQL's error, which may quote a row, beside the one that it raises."""
    need_sessions()  # a pooler reports that it has lost one, too
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    log_uncaught_exceptions(logging.getLogger("backend.test"))
    caplog.set_level(logging.INFO)

    with pytest.raises(EngineDown):
        copy_until_terminated(backend.database, engines)

    assert [entry.message for entry in caplog.records] == ["a library has reported an exception"]
    formatted = LineFormatter().format(caplog.records[0])
    assert "AdminShutdown 57P01" in formatted
    assert SECRET not in formatted
    assert SECRET not in capfd.readouterr().err


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ZeroDivisionError()])
def test_what_the_lines_raise_is_raised(backend: Backend, failure: BaseException) -> None:
    """Not the driver's error that the statement was cancelled, which means something else."""

    def lines() -> Iterator[str]:
        yield from ["x\n"] * (COPY_LINES_PER_READ + 1)
        raise failure

    with backend.database.begin() as tx:
        tx.execute(text("CREATE TEMPORARY TABLE line (body text)"))
        with pytest.raises(type(failure)):
            copy_rows(tx, "line", ["body"], lines())
        tx.rollback()
