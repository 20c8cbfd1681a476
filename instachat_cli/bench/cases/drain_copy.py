"""Storing messages, against its ceiling: plain COPY of the same rows into the same table.

The ceiling does not read, decode, fold or check anything: it sends prebuilt bytes.
"""

import io
from collections.abc import Callable, Iterator, Sequence

from backend.storage.postgres.messages import COPY_COLUMNS
from instachat_cli.bench.harness.environment import CONCURRENT_REQUESTS, Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, run_pairs

COLUMNS = ", ".join(COPY_COLUMNS)  # those that the drain stores
ROWS = 5_000  # a COPY, as many as the drain stores in one transaction
GOAL = Goal(must=0.2, aim=0.4)


def measure(env: Environment) -> Iterator[Row]:
    """Drain requests of one message (the realistic case), concurrent ones, and requests of a thousand."""
    yield _against_copy(env, "drain, requests of one message", env.accept_one_by_one)
    yield _against_copy(
        env,
        f"drain, {CONCURRENT_REQUESTS} requests of one message at once",
        lambda texts: env.accept_concurrently(texts, CONCURRENT_REQUESTS),
    )
    yield _against_copy(env, "drain, requests of 1,000 messages", env.accept_batches)


def _against_copy(env: Environment, what: str, fill: Callable[[Sequence[str]], object]) -> Row:
    count = len(env.texts)
    fill(env.texts)
    env.drain()
    pieces = _stored(env)
    env.clear_messages(count)
    with env.connection() as connection, connection.cursor() as cursor:

        def copy() -> None:
            for piece in pieces:
                cursor.copy_expert(f"COPY message ({COLUMNS}) FROM STDIN", io.BytesIO(piece))

        return run_pairs(
            what,
            f"{count:,} messages of one chat; one drain; each transaction durable; COPY of"
            f" {ROWS:,} prebuilt rows, each committed, on one connection",
            Side(
                "drain",
                env.drain,
                count,
                before=lambda: fill(env.texts),
                after=lambda: env.clear_messages(count),
            ),
            Side("plain COPY", copy, count, after=lambda: env.clear_messages(count)),
            pairs=env.scale.pairs,
            goal=GOAL,
        )


def _stored(env: Environment) -> list[bytes]:
    """The stored rows in the format of COPY, in pieces of ROWS."""
    data = io.BytesIO()
    with env.connection() as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT {COLUMNS} FROM message ORDER BY number) TO STDOUT", data)
    lines = data.getvalue().splitlines(keepends=True)
    return [b"".join(lines[start : start + ROWS]) for start in range(0, len(lines), ROWS)]
