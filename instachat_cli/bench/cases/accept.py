"""Accepting, against the minimum cost of a log in Redis: pipelined XADDs.

An XADD assigns no number, checks nothing and updates no count. Each side uses one connection. One baseline
uses the same client and the same texts; the other is Redis's own benchmark, written in C, which repeats one
text.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

from backend.domain.errors import Failed
from instachat_cli.bench.harness.environment import BATCH_SIZE, CONCURRENT_REQUESTS, Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs
from instachat_cli.console.stderr import stderr

GOAL = Goal(must=1.0, aim=2.0)


def measure(env: Environment) -> Iterator[Row]:
    """Accept requests of a thousand messages, as `messages create -` sends them, and requests of one."""
    yield _against_xadd(
        env, "accept, requests of 1,000 messages", env.accept_batches, BATCH_SIZE, GOAL
    )
    yield _against_xadd(
        env,
        f"accept, {CONCURRENT_REQUESTS} requests of one message at once",
        lambda texts: env.accept_concurrently(texts, CONCURRENT_REQUESTS),
        CONCURRENT_REQUESTS,
        None,
    )
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        stderr.note("redis-benchmark is not installed: its pipelined XADDs are skipped")
    else:
        yield _against_benchmark(env, program)


def _against_benchmark(env: Environment, program: str) -> Row:
    key = f"{env.backend.log.key(env.chat.shard, 'log')}:baseline"
    pipelined = min(BATCH_SIZE, len(env.texts))
    count = len(env.texts) // pipelined * pipelined  # it sends full pipelines only
    typical_text = sorted(env.texts, key=len)[count // 2]
    connection = env.redis.connection_pool.connection_kwargs
    address = (
        ["-s", connection["path"]]
        if "path" in connection
        else ["-h", connection["host"], "-p", str(connection["port"])]
    )
    options = ["-q", "-c", "1", "-n", str(count), "-P", str(pipelined)]
    options += ["--dbnum", str(connection.get("db") or 0)]
    password = {"REDISCLI_AUTH": connection["password"]} if connection.get("password") else {}

    def xadd() -> None:
        subprocess.run(
            [program, *address, *options, "XADD", key, "*", "e", typical_text],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | password,
        )
        if env.redis.xlen(key) != count:
            raise Failed(f"{program} did not append {count:,} entries")

    return run_pairs(
        "accept, requests of 1,000 messages",
        f"{count:,} messages to one chat, one connection; {pipelined:,} XADDs a pipeline, one text of median"
        " length repeated, by a process of its own, including its start; both to the same Redis",
        Side(
            "accept",
            lambda: env.accept_batches(env.texts[:count]),
            count,
            after=env.clear_log,
        ),
        Side("redis-benchmark, pipelined XADD", xadd, count, after=lambda: env.redis.delete(key)),
        pairs=env.scale.pairs,
        goal=GOAL,
    )


def _against_xadd(
    env: Environment,
    what: str,
    accept: Callable[[Sequence[str]], object],
    pipelined: int,
    goal: Goal | None,
) -> Row:
    key = f"{env.backend.log.key(env.chat.shard, 'log')}:baseline"
    count = len(env.texts)

    def xadd() -> None:
        for start in range(0, count, pipelined):
            pipe = env.redis.pipeline(transaction=False)
            for text in env.texts[start : start + pipelined]:
                pipe.execute_command("XADD", key, "*", "e", text)
            pipe.execute()

    return run_pairs(
        what,
        f"{count:,} messages to one chat, one connection; {pipelined:,} XADDs a pipeline, the text as"
        " one field; both by the same client, redis-py, to the same Redis",
        Side("accept", lambda: accept(env.texts), count, after=env.clear_log),
        Side("pipelined XADD", xadd, count, after=lambda: env.redis.delete(key)),
        pairs=env.scale.pairs,
        goal=goal,
    )
