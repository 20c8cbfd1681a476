"""Accepting, against the least that any log in Redis can cost: pipelined XADDs.

An XADD gives no number, checks nothing and keeps no count. By the same client the texts are the same; Redis's
own benchmark, which is written in C, sends one text again and again. Each on one connection.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

from backend.domain.errors import Failed
from instachat_cli.bench.harness.environment import BULK, TOGETHER, Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, duel
from instachat_cli.console.stderr import talk

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
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        talk.note("redis-benchmark is not here: its pipelined XADDs are left out")
    else:
        yield _against_benchmark(ground, program)


def _against_benchmark(ground: Ground, program: str) -> Row:
    key = f"{ground.backend.log.key(ground.chat.shard, 'log')}:rival"
    pipelined = min(BULK, len(ground.texts))
    count = len(ground.texts) // pipelined * pipelined  # it sends whole pipelines
    usual = sorted(ground.texts, key=len)[count // 2]
    at = ground.redis.connection_pool.connection_kwargs
    where = ["-s", at["path"]] if "path" in at else ["-h", at["host"], "-p", str(at["port"])]
    words = ["-q", "-c", "1", "-n", str(count), "-P", str(pipelined)]
    words += ["--dbnum", str(at.get("db") or 0)]
    password = {"REDISCLI_AUTH": at["password"]} if at.get("password") else {}

    def xadd() -> None:
        subprocess.run(
            [program, *where, *words, "XADD", key, "*", "e", usual],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | password,
        )
        if ground.redis.xlen(key) != count:
            raise Failed(f"{program} did not do what was asked")

    return duel(
        "accept, requests of 1,000 messages",
        f"{count:,} messages to one chat, one connection; {pipelined:,} XADDs a pipeline, one text of usual"
        " length again and again, by a process of its own, its start included; both to the same Redis",
        Side(
            "accept",
            lambda: ground.accept_bulk(ground.texts[:count]),
            count,
            after=ground.forget_accepted,
        ),
        Side(
            "redis-benchmark, pipelined XADD", xadd, count, after=lambda: ground.redis.delete(key)
        ),
        pairs=ground.scale.pairs,
        goal=GOAL,
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
