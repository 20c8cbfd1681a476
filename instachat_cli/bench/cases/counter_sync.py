"""sync-counters: its cost must depend on the number of changed chats, not on the number of chats."""

from collections.abc import Iterator

from backend.domain.errors import InstaChatError
from backend.domain.model import MAX_BATCH
from backend.ingest.requests import AcceptRequest
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

CHANGED_CHATS = 1_000  # that received a message since the last sync
REQUESTS_PER_DRAIN = 100  # requests for new chats that one drain stores
GOAL = Goal(must=1 / 50, at_most=True)
PAIRS = 2  # the baseline is slow


def measure(env: Environment) -> Iterator[Row]:
    """Sync a thousand changed chats of a million, against comparing all of them."""
    backend, token = env.backend, env.chat.token
    total, changed = env.scale.chats, min(CHANGED_CHATS, env.scale.chats)
    for start in range(0, total, MAX_BATCH * REQUESTS_PER_DRAIN):
        for first in range(start, min(start + MAX_BATCH * REQUESTS_PER_DRAIN, total), MAX_BATCH):
            backend.acceptor.accept(AcceptRequest.chats(token, min(MAX_BATCH, total - first)))
        env.drain()
    _sync(env, everything=True)

    def change() -> None:
        step = max(total // changed, 1)
        for start in range(0, changed, 500):
            numbers = (1 + n * step for n in range(start, min(start + 500, changed)))
            requests = [AcceptRequest.messages(token, number, ["x"]) for number in numbers]
            for answer in backend.acceptor.accept_batch(requests):
                if isinstance(answer, InstaChatError):
                    raise answer
        env.drain()

    yield run_pairs(
        f"sync-counters, {changed:,} chats changed of {total:,}",
        "one application, counters verified, all of them stored; --all finds nothing to write",
        Side("what changed", lambda: _sync(env, expected=changed), before=change),
        Side("--all", lambda: _sync(env, everything=True, expected=0)),
        pairs=min(env.scale.pairs, PAIRS),
        goal=GOAL,
    )


def _sync(env: Environment, *, everything: bool = False, expected: int | None = None) -> None:
    written = sum(1 for _ in env.backend.counter_sync.sync(everything=everything))
    assert expected in (None, written), f"{written:,} counters were written"
