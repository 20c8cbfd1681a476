"""`instachat queue`: the queued jobs, and pausing the workers."""

import signal
from collections.abc import Iterator

import pytest
import redis

from backend.bootstrap import Backend
from backend.worker.queue import QUEUE_KEY
from tests.cli.conftest import Cli
from tests.support.fork_server import ForkedProcess
from tests.support.waiting import PATIENCE_SECONDS, wait_until


@pytest.fixture
def paused(cli: Cli, core: Backend) -> Iterator[None]:
    """The queue is paused until the test ends."""
    assert cli("queue", "pause").json == {"paused": True}
    yield
    core.workers.resume()


def wait_for_sweeps(core: Backend) -> None:
    """Return after several heartbeats of the one worker, between which it has swept."""
    seen: set[str] = set()

    def enough() -> bool:
        assert isinstance(core.log.redis, redis.Redis)
        seen.add(str(core.log.redis.zrange("instachat:workers", -1, -1, withscores=True)))
        return len(seen) > 2

    wait_until(enough)


def test_queue_show_counts_the_waiting_jobs_by_name(cli: Cli, core: Backend) -> None:
    """While no worker runs, they stay queued."""
    core.jobs.notify_drain(1)
    core.jobs.notify_drain(2)
    core.jobs.notify_cascade()
    core.log.redis.lpush(QUEUE_KEY, "rubbish")
    shown = cli("queue", "show").json
    assert shown["jobs"] == {"cascade": 1, "drain": 2, "unreadable": 1}
    assert (shown["waiting"], shown["paused"], shown["workers"]) == (4, False, 0)
    assert "1 cascade, 2 drain" in cli("queue", "show", "-o", "table").out


def test_wake_ups_beyond_the_limit_are_dropped(core: Backend) -> None:
    """While no worker runs, a growing queue would take memory of Redis from the log."""
    for _ in range(300):
        core.jobs.notify_drain(0)
    assert core.jobs.length() <= 100


@pytest.mark.usefixtures("paused")
def test_commands_that_would_wait_fail_while_the_queue_is_paused(
    cli: Cli, core: Backend, token: str
) -> None:
    """They fail immediately and name the command that helps. Creating works, with a note."""
    made = cli("chats", "create", token)
    assert (made.code, made.json) == (0, {"number": 1})
    assert "`instachat queue resume`" in made.err
    waited = cli("messages", "create", token, 1, "text", "--wait", "stored", "-o", "json")
    assert (waited.code, waited.json) == (4, {"number": 1})
    assert "while the job queue is paused" in waited.error["message"]
    for words in (
        ["messages", "edit", token, 1, 1, "other"],
        ["messages", "delete", token, 1, 1, "--yes"],
        ["chats", "delete", token, 1, "--yes", "--cascade"],
    ):
        refused = cli(*words, "-o", "json")
        assert (refused.code, refused.error["error"]) == (5, "unavailable")
        assert "paused" in refused.error["message"]
        assert "`instachat queue resume`" in refused.error["hint"]
    waiting = core.log.waiting(core.database.installation.shards)
    assert waiting == 3, "with the one of the application"
    assert cli("status").json["paused"] is True
    found = {line["check"]: line for line in cli("doctor").lines}
    assert found["worker"]["severity"] == "warning"
    assert "paused" in found["worker"]["message"]
    assert cli("queue", "resume").json == {"paused": False}
    assert cli("messages", "edit", token, 1, 1, "other").json["text"] == "other"


def test_a_paused_worker_takes_no_job_and_does_not_sweep(
    cli: Cli, core: Backend, token: str, worker: ForkedProcess
) -> None:
    """This also holds for one that starts meanwhile. After `resume` it continues by itself."""
    cli("queue", "pause")
    try:
        cli("chats", "create", token)
        wait_for_sweeps(core)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_SECONDS) == 0
        waiting = core.log.waiting([core.counters.shard(token)])
        assert waiting
        second = cli.start_worker()
        try:
            wait_until(lambda: core.workers.count() == 1)
            cli("messages", "create", token, 1, "text")
            wait_for_sweeps(core)
            assert core.log.waiting([core.counters.shard(token)]) == waiting + 1
            cli("queue", "resume")
            wait_until(lambda: not core.log.waiting(core.database.installation.shards))
        finally:
            second.send_signal(signal.SIGTERM)
            second.wait(PATIENCE_SECONDS)
    finally:
        core.workers.resume()
