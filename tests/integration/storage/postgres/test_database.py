"""The connection: errors that say what to do, the driver, and a server that was restarted."""

import time

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.domain.errors import EngineDown, Failed
from backend.storage.postgres.database import PING_AFTER_IDLE_SECONDS, Database
from backend.storage.postgres.tables import SCHEMA
from tests.conftest import Engines
from tests.support.waiting import promised


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
    with pytest.raises(Failed, match="can't be used"):
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
