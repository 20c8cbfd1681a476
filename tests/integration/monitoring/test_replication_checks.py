"""What doctor says of PostgreSQL's replication, of a primary with a standby."""

from contextlib import ExitStack

import pytest

from backend.monitoring import replication_checks
from backend.monitoring.checks import Severity
from backend.storage.postgres.database import Database
from tests.support.engines import PostgresServer, running, wheel_postgres
from tests.support.waiting import wait_until


def check(server: PostgresServer, user: str = "postgres") -> list[tuple[Severity, str]]:
    """Severity and message of each result."""
    database = Database(server.direct_url("postgres").replace("postgres@", f"{user}@", 1))
    try:
        return [
            (found.severity, found.message)
            for found in replication_checks.check_replication(database, 600.0)
        ]
    finally:
        database.close()


def test_the_role_of_the_server_and_the_state_of_its_standbys_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A standby as the server, a standby that is behind, and commits that wait for one that is not there."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(PostgresServer(wheel_postgres())))
        assert check(primary) == [
            (Severity.OK, "the server is the primary; no standby is connected")
        ]
        primary.execute("CREATE ROLE reader LOGIN")

        standby = stack.enter_context(running(PostgresServer(wheel_postgres(), primary=primary)))
        wait_until(lambda: "walreceiver is streaming, async" in check(primary)[0][1])
        assert check(primary)[0][0] is Severity.OK
        ((severity, message),) = check(standby)
        assert severity is Severity.ERROR
        assert "is a standby" in message
        ((severity, message),) = check(primary, "reader")
        assert severity is Severity.UNKNOWN
        assert message.startswith("1 standby is connected")

        standby.execute("SELECT pg_wal_replay_pause()")
        monkeypatch.setattr(replication_checks, "MAX_BEHIND_BYTES", 1_000)
        primary.execute("CREATE TABLE filler AS SELECT generate_series(1, 1000)")
        wait_until(lambda: check(primary)[0][0] is Severity.WARNING)
        assert "walreceiver is streaming, async" in check(primary)[0][1]

        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'another'")
        primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: check(primary)[0][0] is Severity.ERROR)
        assert "synchronous_standby_names is another" in check(primary)[0][1]
