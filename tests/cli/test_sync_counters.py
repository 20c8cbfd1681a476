"""`instachat sync-counters`: by an operator, by cron, by the worker."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from backend.bootstrap import Backend
from backend.storage.postgres import counter_columns
from tests.cli.conftest import Cli
from tests.support.engines import free_port
from tests.support.redis_values import count_dirty
from tests.support.waiting import wait_until


@pytest.fixture
def synced(core: Backend, token: str) -> None:
    """An application whose shard was synced once, so that only the test's changes are dirty."""
    assert token
    list(core.counter_sync.sync())


@pytest.mark.usefixtures("synced")
def test_sync_counters_prints_the_old_and_the_new_counts(
    cli: Cli, token: str, drain_application: Callable[[str], None]
) -> None:
    """It prints one line for each updated count. A second sync has nothing to do."""
    cli("chats", "create", token)
    cli("messages", "create", token, 1, "-", stdin="one\ntwo\n")
    drain_application(token)
    first = cli("sync-counters", "-o", "jsonl")
    mine = [line for line in first.lines if line["token"] == token]
    assert mine == [
        {"token": token, "chat": None, "old": 0, "new": 1},
        {"token": token, "chat": 1, "old": 0, "new": 2},
    ]
    assert "counts written" in first.err
    cli("messages", "delete", token, 1, 1, "--yes")
    cli("messages", "create", token, 1, "three")
    drain_application(token)
    shown = cli("sync-counters", "-o", "table")
    assert f"{token}: messages of chat 1 1 → 2\n" in shown.out
    again = cli("sync-counters", "--all", "-o", "json")
    assert (again.code, again.out) == (0, "[]\n")


@pytest.mark.usefixtures("synced")
def test_check_exits_with_4_if_sql_is_too_far_behind(
    cli: Cli, core: Backend, token: str, drain_application: Callable[[str], None]
) -> None:
    """It writes nothing. The limit is one hour by default, and applies to the age of the oldest change."""
    since = time.monotonic()
    cli("chats", "create", token)
    drain_application(token)
    fine, behind = cli.run_all(
        [
            ("sync-counters", "--check", "-o", "json"),
            ("sync-counters", "--check", "--max-lag", "0s", "-o", "json"),
        ]
    )
    assert (fine.code, fine.json["max_lag_seconds"]) == (0, 3600)
    assert 0 < fine.json["lag_seconds"] <= time.monotonic() - since
    assert (behind.code, behind.error["error"]) == (4, "check_failed")
    assert behind.json["counters_not_synced"] == 1
    shard = core.counters.shard(token)
    core.log.redis.zincrby(core.log.key(shard, "dirty"), -7.2e9, token)
    assert cli("sync-counters", "--check").code == 4
    assert cli("sync-counters", "--check", "--max-lag", "3h").code == 0
    assert [line["token"] for line in cli("sync-counters").lines] == [token]
    assert cli("sync-counters", "--check", "--max-lag", "0s").json["lag_seconds"] == 0


def test_wrong_usage_of_sync_counters_exits_with_2(cli: Cli) -> None:
    """A duration is invalid, or an option lacks the one that it requires."""
    for words in (
        ["--check", "--max-lag", "1 hour"],
        ["--check", "--max-lag", "-1h"],
        ["--max-lag", "1h"],
        ["--check", "--all"],
    ):
        assert cli("sync-counters", *words).code == 2, words


@pytest.mark.usefixtures("synced")
def test_sync_counters_without_an_engine_exits_with_5(
    cli: Cli, core: Backend, token: str, drain_application: Callable[[str], None]
) -> None:
    """A sync and a check change nothing then."""
    cli("chats", "create", token)
    drain_application(token)
    for name, scheme in (("REDIS", "redis"), ("DATABASE", "postgresql")):
        url = {f"INSTACHAT_{name}_URL": f"{scheme}://127.0.0.1:{free_port()}/0"}
        for words in ([], ["--all"], ["--check"]):
            assert cli("sync-counters", *words, env=url).code == 5
    assert count_dirty(core) == 1
    assert [(line["old"], line["new"]) for line in cli("sync-counters").lines] == [(0, 1)]


@pytest.mark.usefixtures("synced")
def test_a_worker_syncs_about_an_hour_after_the_last_sync(
    cli: Cli, core: Backend, request: pytest.FixtureRequest
) -> None:
    """The last sync may be of any process. Until then the worker does not sync."""
    token = core.catalog.applications.create("x").token
    list(core.counter_sync.sync())  # its shard may be in use for the first time
    cli("chats", "create", token)
    with core.database.begin() as tx:
        tx.execute(text("UPDATE shard SET synced_at = synced_at - interval '56 minutes'"))
    assert count_dirty(core) == 1
    request.getfixturevalue("worker")
    wait_until(lambda: count_dirty(core) == 0)

    def behind() -> float:
        # Of this shard: others, which the worker is the first to look at, were never synced.
        with core.database.connect() as connection:
            return counter_columns.list_sync_states(connection)[
                core.counters.shard(token)
            ].behind_seconds

    wait_until(lambda: behind() < 28 * 60)  # noted a moment after the last count
