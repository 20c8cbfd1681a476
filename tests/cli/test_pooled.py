"""The command line with PostgreSQL behind a PgBouncer in transaction mode."""

from pathlib import Path

import pytest

from backend.settings import Settings
from tests.cli.conftest import Cli
from tests.support.fork_server import ForkServer
from tests.support.pgbouncer import left_behind


@pytest.mark.scale("PgBouncer in transaction mode: nothing of a session remains")
def test_commands_leave_nothing_in_the_poolers_connections(
    pooled: Settings, fork_server: ForkServer, tmp_path: Path
) -> None:
    """Of each kind: writing, reading, streaming, comparing, and the ones that lock."""
    cli = Cli(fork_server, database_url=pooled.database_url, redis_url=pooled.redis_url)
    file = tmp_path / "export.jsonl"
    assert cli("migrate").code == 0
    token = cli("apps", "create", "Support desk").json["token"]
    assert cli("chats", "create", token, "--wait", "stored").code == 0
    lines = "".join(f"message {number}\n" for number in range(1_200))
    created = cli("messages", "create", token, 1, "-", "--wait", "stored", stdin=lines)
    assert created.code == 0, created.err
    for words in (
        ("messages", "edit", token, 1, 1, "edited"),
        ("messages", "delete", token, 1, 2, "--yes"),
        ("sync-counters",),
        ("export", file),
        ("import", file),
        ("reconcile",),
        ("reindex",),
        ("doctor",),
        ("status",),
    ):
        done = cli(*words)
        assert done.code in (0, 4 if words[0] in ("doctor", "status") else 0), (words, done.err)
    assert len(cli("search", token, 1, "message", "--limit", 200).lines) == 200
    assert cli("apps", "delete", token, "--cascade", "--yes").code == 0
    assert left_behind(str(pooled.database_url)) == []
