"""Accepting, against the least that any log in Redis can cost: pipelined XADDs of the same texts.

An XADD gives no number, checks nothing and keeps no count. Both use the same client, on one connection.
"""

from collections.abc import Callable, Iterator, Sequence

from instachat_cli.bench.duel import Goal, Row, Side, duel
from instachat_cli.bench.ground import BULK, TOGETHER, Ground

GOAL = Goal(must=1.0, aim=2.0)


def measure(ground: Ground) -> Iterator[Row]:
    """Requests of a thousand messages, as `messages create -` sends them; and single ones."""
    yield _against_xadd(
        ground, "accept, requests of 1,000 messages", ground.accept_bulk, BULK, GOAL
    )
    yield _against_xadd(
        ground,
        f"accept, {TOGETHER} requests of one message at once",
        lambda texts: ground.accept_together(texts, TOGETHER),
        TOGETHER,
        None,
    )


def _against_xadd(
    ground: Ground,
    what: str,
    accept: Callable[[Sequence[str]], object],
    pipelined: int,
    goal: Goal | None,
) -> Row:
    key = f"{ground.backend.log.key(ground.chat.shard, 'log')}:rival"
    count = len(ground.texts)

    def xadd() -> None:
        for start in range(0, count, pipelined):
            pipe = ground.redis.pipeline(transaction=False)
            for text in ground.texts[start : start + pipelined]:
                pipe.execute_command("XADD", key, "*", "e", text)
            pipe.execute()

    return duel(
        what,
        f"{count:,} messages to one chat, one connection; {pipelined:,} XADDs a pipeline, the text as"
        " one field; both by the same client, redis-py, to the same Redis",
        Side("accept", lambda: accept(ground.texts), count, after=ground.forget_accepted),
        Side("pipelined XADD", xadd, count, after=lambda: ground.redis.delete(key)),
        pairs=ground.scale.pairs,
        goal=goal,
    )
