"""Several hosts of PostgreSQL: a failover while processes run, and processes that start after it."""

from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from backend.settings import Settings
from tests.cli.conftest import Cli
from tests.http.conftest import migrated_database, running_worker
from tests.support.engines import PostgresServer, RedisServer, running, wheel_postgres
from tests.support.fork_server import fork_server
from tests.support.http_server import ApplicationClient, running_server
from tests.support.waiting import wait_until


@pytest.mark.scale("PostgreSQL: a failover, after which the former primary still answers reads")
@pytest.mark.faults
def test_a_failover_is_followed_and_the_former_primary_is_not_read(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """Also if the former primary goes on answering reads. Afterwards everything starts without it."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(PostgresServer(wheel_postgres())))
        migrated_database(primary)
        standby = PostgresServer(wheel_postgres(), primary=primary)
        stack.enter_context(running(standby))
        hosts = ",".join(quote(str(server.folder), "") for server in (primary, standby))
        settings = Settings(
            database_url=f"postgresql://postgres@{hosts}/own", redis_url=own_redis.url
        )
        server = stack.enter_context(running_server(settings, tmp_path))
        stack.enter_context(running_worker(server))
        app = ApplicationClient(server)
        chat = app.chat()
        message = app.message(chat, "before")
        grouped = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'EXECUTE grouped_messages%'"
        )
        wait_until(lambda: server("GET", message).status == 200 and primary.query(grouped))

        fail_over(primary, standby)
        edit = {"message": {"text": "after"}}
        wait_until(lambda: server("PATCH", message, edit).status == 200)
        for _ in range(5):  # as many as there are connections that grouped reads may use, and more
            assert server("GET", message).json["text"] == "after"
        app.message(chat, "another")

        primary.kill()
        with running_server(settings, tmp_path) as second, running_worker(second):
            second_app = ApplicationClient(second)
            second_app.message(second_app.chat())
            assert second("GET", message).json["text"] == "after"
        cli = Cli(fork_server(), database_url=settings.database_url, redis_url=own_redis.url)
        listed = cli("messages", "list", app.token, 1)
        assert [line["text"] for line in listed.lines] == ["after", "another"]


def fail_over(primary: PostgresServer, standby: PostgresServer) -> None:
    """Promote the standby once it has everything; the primary takes no writes any more."""
    primary.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    primary.execute("SELECT pg_reload_conf()")
    end = primary.query("SELECT pg_current_wal_flush_lsn()")
    wait_until(lambda: standby.query(f"SELECT pg_last_wal_replay_lsn() >= '{end}'"))
    standby.execute("SELECT pg_promote()")
