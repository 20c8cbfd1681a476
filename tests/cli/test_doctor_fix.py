"""`doctor --fix`: the safe repairs are made, and nothing else."""

from sqlalchemy import text

from backend.bootstrap import Backend
from backend.settings import Settings
from backend.storage.postgres.database import Connection
from tests.cli.conftest import Cli
from tests.conftest import Engines
from tests.support.fork_server import ForkServer


def outdate_counters(connection: Connection) -> None:
    """Say that the counters were last compared long ago, in an epoch that is over."""
    connection.execute(
        text("UPDATE shard SET synced_epoch = 0, synced_at = now() - interval '3 hours'")
    )
    connection.execute(text("UPDATE installation SET created_at = now() - interval '3 hours'"))


def test_what_is_safe_is_repaired_and_the_rest_is_left(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """Indexes and counts; a constraint is a decision, and a paused queue is somebody's."""
    assert chat
    with core.database.begin() as tx:
        tx.exec_driver_sql("DROP INDEX application_created_at")
        outdate_counters(tx)
    core.workers.pause()
    before = {line["check"]: line for line in cli("doctor").lines}
    assert before["tables"]["severity"] == "error"
    assert before["counts in SQL"]["severity"] == "warning"
    assert "repaired" not in before["tables"]
    fixed = cli("doctor", "--fix")
    after = {line["check"]: line for line in fixed.lines}
    assert {check for check, line in after.items() if line["repaired"]} == {
        "tables",
        "counts in SQL",
    }
    assert after["worker"]["severity"] == "warning", "still paused"
    assert core.workers.paused()
    assert "CREATE INDEX CONCURRENTLY" in fixed.err
    made = [(row["command"], row["target"], row["counts"]) for row in cli("audit", "list").lines]
    assert made == [
        ("doctor", "--fix", {"indexes": 1, "counts": 1}),
        ("doctor", "--fix", {"indexes": 1}),
    ]
    with core.database.connect() as connection:
        found = connection.scalar(
            text("SELECT indexdef FROM pg_indexes WHERE indexname = :name"),
            {"name": "application_created_at"},
        )
    assert "(created_at, id)" in found
    assert cli("apps", "show", token).json["chats_count"] == 1


def test_a_constraint_is_not_created(cli: Cli, core: Backend) -> None:
    """The rows may contradict it already."""
    with core.database.begin() as tx:
        tx.exec_driver_sql("ALTER TABLE chat DROP CONSTRAINT chat_application_id_number_key")
    fixed = cli("doctor", "--fix")
    (tables,) = [line for line in fixed.lines if line["check"] == "tables"]
    assert (fixed.code, tables["severity"], tables["repaired"]) == (4, "error", False)
    assert "nothing was found that can be repaired" in fixed.err


def test_a_database_without_tables_is_migrated(
    fork_server: ForkServer, engines: Engines, installation: Settings
) -> None:
    """The first checks end there; those that follow are made with the tables."""
    cli = Cli(fork_server, database_url=engines.bare_database(), redis_url=installation.redis_url)
    fixed = cli("doctor", "--fix")
    schema = next(line for line in fixed.lines if line["check"] == "schema")
    assert (schema["severity"], schema["repaired"]) == ("ok", True)
    assert "instachat migrate" in fixed.err
