"""The protocols in every order of their single commands, on real engines, and faults that are found so.

`make interleavings` explores all plays in larger bounds.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from math import inf

import pytest

from backend.bootstrap import Backend, open_backend
from backend.ingest.batch import BatchLimits, ShardLimits
from backend.ingest.batch_writer import BatchWriter
from backend.ingest.drain import Drainer
from backend.ingest.kept_log import KeptLog
from backend.maintenance.cascade_delete import CascadeDeleter
from backend.storage.redis.workers import WorkersState
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.interleavings.count_plays import Cascading, Counting, CountingTwice
from tests.support.interleavings.explorer import Bounds, Explorer
from tests.support.interleavings.mutants import (
    Plant,
    after_the_commit,
    finish_cascades_beside_others,
    in_method,
    in_script,
)
from tests.support.interleavings.plays import Deciding, Deleting, Draining, TokenPlay
from tests.support.interleavings.redis_plays import Losing, Returning

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("interleavings")]
LONG = os.environ.get("INSTACHAT_INTERLEAVINGS") == "long"


@pytest.fixture(scope="module")
def backends(engines: Engines) -> Iterator[tuple[Backend, Backend]]:
    """Those of two processes, on engines of their own. The second one drains in batches of one entry."""
    server = RedisServer(valkey_binary())
    with ExitStack() as stack:
        stack.callback(server.remove)
        server.start()
        settings = engines.settings().model_copy(update={"redis_url": server.url})
        stack.callback(engines.drop_database, settings)
        first, second = (stack.enter_context(open_backend(settings)) for _ in range(2))
        second.drainer._limits = ShardLimits(BatchLimits(entries=1))
        for backend in (first, second):
            # What is done now and then would give the same order other steps.
            backend.kept_log._next_trim = inf
            backend.workers.state = lambda: WorkersState(True, False)  # type: ignore[method-assign]
        yield first, second


SHORT, KILLED, LARGER = Bounds(1), Bounds(1, kills=1), Bounds(interruptions=2, kills=1)
LONG_PLAYS: dict[type[TokenPlay], Bounds] = {
    Draining: LARGER,
    Deleting: LARGER,
    Deciding: LARGER,
    Counting: LARGER,
    CountingTwice: SHORT,
    Cascading: KILLED,
    Losing: LARGER,
    Returning: SHORT,
}
PLAYS: dict[type[TokenPlay], Bounds] = {
    Draining: SHORT,
    Deleting: SHORT,
    Deciding: SHORT,
    Counting: SHORT,
    Cascading: SHORT,
    Losing: SHORT,
    Returning: Bounds(interruptions=0),
}
if LONG:
    PLAYS = LONG_PLAYS


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_every_order_of_commands_keeps_the_promises(
    backends: tuple[Backend, Backend], play: type[TokenPlay]
) -> None:
    """Within the bounds. A failure prints the steps."""
    explorer = Explorer(str(backends[0].settings.database_url))
    result = explorer.explore(partial(play, *backends), PLAYS[play])
    assert not result.broken, str(result)


MUTANTS: dict[str, tuple[type[TokenPlay], Bounds, Plant]] = {
    "a drain does not look again": (
        Draining,
        SHORT,
        in_method(Drainer, "_drain", "if not waiting or not may_continue():", "if True:"),
    ),
    "a refused deletion opens its chat after the commit": (
        Deleting,
        KILLED,
        after_the_commit("reopen", Drainer, "_drain_batch"),
    ),
    "a deletion is decided twice": (
        Deciding,
        Bounds(interruptions=0, kills=1),
        in_method(
            BatchWriter,
            "_apply_deletion",
            "if not self._log.is_closed_by(self._shard, self._epoch, parent, entry):",
            "if False:",
        ),
    ),
    "a sync takes a change for written": (
        Counting,
        SHORT,
        in_script(
            "ack_synced",
            "if (counter and counter.issued) == tonumber(ARGV[2 * i - 2]) then",
            "if true then",
        ),
    ),
    "a cascade deletes counters after the commit": (
        Cascading,
        Bounds(interruptions=0, kills=1),
        after_the_commit("drop_counters", CascadeDeleter, "_delete_batch"),
    ),
    "an older copy of Redis accepts": (
        Losing,
        SHORT,
        in_script(
            "accept",
            "if epoch_number == seen_epoch and sequence < seen_sequence then",
            "if false then",
        ),
    ),
    "a counter is not raised to SQL's numbers": (
        Losing,
        SHORT,
        in_script("verify_counter", "local highest = tonumber(ARGV[2])", "local highest = 0"),
    ),
    "a drain passes over the rest of a former log": (
        Returning,
        SHORT,
        in_method(Drainer, "_drain_batch", "if page.after < through and not is_rest:", "if False:"),
    ),
    "a trim notes what no drain has read": (
        Returning,
        SHORT,
        in_method(
            KeptLog,
            "_trim_shard",
            "through = min(end.stored, drained.cursor)",
            "through = drained.cursor",
        ),
    ),
}
if LONG:  # it takes many orders to find
    MUTANTS["a cascade takes what is locked for deleted"] = (
        Cascading,
        KILLED,
        finish_cascades_beside_others,
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_each_fault_is_found(
    backends: tuple[Backend, Backend], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Some order breaks a promise."""
    play, bounds, plant = MUTANTS[name]
    plant(monkeypatch)
    explorer = Explorer(str(backends[0].settings.database_url))
    result = explorer.explore(partial(play, *backends), bounds)
    assert result.broken, str(result)
