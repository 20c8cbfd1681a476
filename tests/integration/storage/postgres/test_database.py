"""The connection: errors that say what to do, the driver, and a server that was restarted."""

import asyncio
import os
import socket
import time
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from backend.bootstrap import Backend
from backend.domain.errors import EngineDown, Invalid, Unconfirmed
from backend.storage.postgres.async_connection import AsyncConnection
from backend.storage.postgres.database import PING_AFTER_IDLE_SECONDS, Database
from backend.storage.postgres.schema import SCHEMA
from tests.conftest import Engines
from tests.support.faults.proxy import CommitLosingProxy, Proxy
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import promised

SHOW_IDLE_LIMIT = "SHOW idle_in_transaction_session_timeout"


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@127.0.0.1:1/x", "postgresql://u:secret@/x?host=/nowhere"]
)
def test_an_unreachable_database_is_reported_without_its_password(url: str) -> None:
    """Within five seconds the error names the engine, and how to check it."""
    with pytest.raises(EngineDown) as caught, promised(5):
        Database(url).check_schema()
    said = f"{caught.value.message} {caught.value.hint}"
    assert "PostgreSQL" in said
    assert "INSTACHAT_DATABASE_URL" in said
    assert "secret" not in said


def test_an_invalid_url_is_reported() -> None:
    """It has an error of its own."""
    with pytest.raises(Invalid, match="can't be used"):
        Database("not a url")


def test_a_restart_of_the_server_fails_no_call(backend: Backend, engines: Engines) -> None:
    """A pooled connection that has died is replaced before it is used."""
    with backend.database.connect() as connection:
        name = connection.scalar(text("SELECT current_database()"))
    engines.postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )
    time.sleep(2 * PING_AFTER_IDLE_SECONDS)
    assert backend.database.check_schema().number == SCHEMA


@pytest.mark.parametrize(
    ("options", "error"),
    [({}, Unconfirmed), ({"repeatable": True}, EngineDown), ({"durable": False}, EngineDown)],
)
def test_a_commit_whose_answer_is_lost(
    engines: Engines, options: dict[str, bool], error: type[Exception]
) -> None:
    """It is unconfirmed, unless the caller does the same again anyway. Here it was committed."""
    name = urlsplit(engines.bare_database()).path.removeprefix("/")
    with (
        closing(CommitLosingProxy(engines.postgres.folder / ".s.PGSQL.5432")) as proxy,
        closing(Database(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}")) as database,
    ):
        proxy.lose_commit_of(b"CREATE TABLE made")
        with pytest.raises(error) as caught, database.begin(**options) as tx:
            tx.execute(text("CREATE TABLE made ()"))
        assert caught.type is error
        with database.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM made")) == 0


@pytest.mark.parametrize(("query", "seconds"), [("", 15), ("?tcp_user_timeout=60000", 60)])
def test_a_connection_whose_other_end_has_vanished_is_given_up(
    engines: Engines, query: str, seconds: int
) -> None:
    """The kernel would wait for hours, and a thread of the program with it. A URL may say otherwise."""
    name = urlsplit(engines.bare_database()).path.removeprefix("/")
    with closing(Proxy(engines.postgres.folder / ".s.PGSQL.5432")) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}{query}"
        with closing(Database(url)) as database:
            with database.engine.connect() as connection:
                raw = connection.connection.dbapi_connection
                assert _limits(raw) == (seconds, 1, 5)

            async def limits() -> tuple[int, int, int]:
                opened = await AsyncConnection.open(database, "SELECT 1")
                try:
                    return _limits(opened._connection)
                finally:
                    opened.close()

            assert asyncio.run(limits()) == (seconds, 1, 5)


def _limits(connection: Any) -> tuple[int, int, int]:
    """How long a connection waits for an acknowledgement; if, and after how long, it asks for one."""
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        return (
            duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) // 1_000,
            duplicate.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        )


def idle_limit(backend: Backend, **options: bool) -> object:
    """After how long PostgreSQL ends a transaction with these options whose process sends nothing."""
    with backend.database.begin(**options) as tx:
        return tx.scalar(text(SHOW_IDLE_LIMIT))


def test_postgresql_ends_a_transaction_whose_process_sends_nothing(backend: Backend) -> None:
    """After a minute, unless it may idle. No setting outlives it."""
    limits = (
        idle_limit(backend),
        idle_limit(backend, durable=False),
        idle_limit(backend, may_idle=True),
    )
    assert limits == ("1min", "1min", "0")
    with backend.database.connect() as connection:
        assert connection.scalar(text(SHOW_IDLE_LIMIT)) == "0"


def test_a_limit_that_the_database_has_is_kept(backend: Backend) -> None:
    need_sessions()  # new ones have it
    with backend.database.connect() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(
            text(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1h'")
        )
    backend.database.engine.dispose()
    assert idle_limit(backend) == "1h"


def test_a_commit_that_postgresql_refuses_is_not_unconfirmed(backend: Backend) -> None:
    """PostgreSQL says that it has changed nothing."""
    with backend.database.begin() as tx:
        tx.execute(text("CREATE TABLE a (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    with pytest.raises(IntegrityError), backend.database.begin() as tx:
        tx.execute(text("INSERT INTO a VALUES (1), (1)"))


def test_a_change_that_is_cut_off_before_its_commit_has_changed_nothing(
    backend: Backend, engines: Engines
) -> None:
    """The error says that PostgreSQL is away, and not that the outcome is unknown."""

    def be_cut_off() -> None:
        with backend.database.begin() as tx:
            pid = tx.scalar(text("SELECT pg_backend_pid()"))
            engines.postgres.execute(f"SELECT pg_terminate_backend({pid})")
            tx.execute(text("SELECT 1"))

    with pytest.raises(EngineDown):
        be_cut_off()


def test_a_read_takes_one_round_trip_and_leaves_no_isolation_level_behind(
    engines: Engines,
) -> None:
    """The connection goes back to the pool without a statement, with the level and the mode of the server."""
    with closing(Database(engines.bare_database())) as database:
        with database.connect() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with database.snapshot() as connection:
            assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
        with database.connect() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid() AS the_last")) == pid
        last = engines.postgres.query(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}")
        assert last == "SELECT pg_backend_pid() AS the_last"
        with database.begin() as tx:
            assert tx.scalar(text("SHOW transaction_isolation")) == "read committed"
            assert tx.scalar(text("SHOW transaction_read_only")) == "off"
