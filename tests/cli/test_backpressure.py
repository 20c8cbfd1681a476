"""Backpressure: what does not fit is refused with a clear error, and accepted again once there is room."""

from collections.abc import Callable

from backend.bootstrap import Backend
from tests.cli.conftest import Cli


def test_creating_in_a_full_log_exits_with_5_until_it_is_drained(
    cli: Cli, core: Backend, token: str, chat: int, drain_application: Callable[[str], None]
) -> None:
    """What was accepted before stays, and no number is used up."""
    limit = {"INSTACHAT_LOG_LIMIT": "2"}
    given = [cli("messages", "create", token, chat, "x", env=limit).json for _ in range(2)]
    assert given == [{"number": 1}, {"number": 2}]
    full = cli("messages", "create", token, chat, "x", "-o", "json", env=limit)
    assert (full.code, full.error["error"]) == (5, "unavailable")
    assert "2 events that are not stored yet; nothing was accepted" in full.error["message"]
    assert "`instachat status`" in full.error["hint"]
    in_bulk = cli("messages", "create", token, chat, "-", stdin="a\nb\n", env=limit)
    assert in_bulk.code == 5
    assert "accepted before: nothing" in in_bulk.err
    waited = cli("messages", "create", token, chat, "x", "--wait", "stored")
    assert waited.json == {"number": 3}, "another process's limit is its own"
    assert cli("messages", "create", token, chat, "x", env=limit).json == {"number": 4}
    drain_application(token)
    assert len(list(core.catalog.messages.list(token, chat))) == 4


def test_creating_in_a_full_redis_exits_with_5_while_other_commands_work(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """Editing, deleting, syncing counters and the status need no memory. Later, creating works again."""
    cli("messages", "create", token, chat, "before")
    client = core.log.redis
    client.config_set("maxmemory", 1)
    try:
        full = cli("messages", "create", token, chat, "x", "-o", "json")
        assert (full.code, full.error["error"]) == (5, "unavailable")
        assert "memory" in full.error["message"]
        assert cli("messages", "edit", token, chat, 1, "edited").json["text"] == "edited"
        assert cli("messages", "delete", token, chat, 1, "--yes").code == 0
        assert cli("sync-counters").code == 0
        assert cli("status").code in (0, 4)  # 4: what waits has become late
    finally:
        client.config_set("maxmemory", 0)
    assert cli("messages", "create", token, chat, "after").json == {"number": 2}
