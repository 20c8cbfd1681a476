"""Storing, against its ceiling: plain COPY of the same rows into the same table.

The ceiling reads nothing, decodes nothing, folds nothing and checks nothing: its bytes are there already.
"""

import io
from collections.abc import Callable, Iterator, Sequence

from instachat_cli.bench.harness.environment import TOGETHER, Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, duel

COLUMNS = "chat_id, number, version, created_at, updated_at, text, folded"
ROWS = 5_000  # of one COPY: as many as the drain takes in one transaction
GOAL = Goal(must=0.2, aim=0.4)


def measure(ground: Ground) -> Iterator[Row]:
    """Requests of one message, one after another, the honest case, and together; requests of a thousand."""
    yield _against_copy(ground, "drain, requests of one message", ground.accept_apart)
    yield _against_copy(
        ground,
        f"drain, {TOGETHER} requests of one message at once",
        lambda texts: ground.accept_together(texts, TOGETHER),
    )
    yield _against_copy(ground, "drain, requests of 1,000 messages", ground.accept_bulk)


def _against_copy(ground: Ground, what: str, fill: Callable[[Sequence[str]], object]) -> Row:
    count = len(ground.texts)
    fill(ground.texts)
    ground.drain()
    pieces = _stored(ground)
    ground.forget_stored(count)
    with ground.connection() as connection, connection.cursor() as cursor:

        def copy() -> None:
            for piece in pieces:
                cursor.copy_expert(f"COPY message ({COLUMNS}) FROM STDIN", io.BytesIO(piece))

        return duel(
            what,
            f"{count:,} messages of one chat; one drain; each transaction durable; COPY of"
            f" {ROWS:,} prebuilt rows, each committed, on one connection",
            Side(
                "drain",
                ground.drain,
                count,
                before=lambda: fill(ground.texts),
                after=lambda: ground.forget_stored(count),
            ),
            Side("plain COPY", copy, count, after=lambda: ground.forget_stored(count)),
            pairs=ground.scale.pairs,
            goal=GOAL,
        )


def _stored(ground: Ground) -> list[bytes]:
    """The rows that a drain has stored, as COPY takes them."""
    data = io.BytesIO()
    with ground.connection() as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY (SELECT {COLUMNS} FROM message ORDER BY number) TO STDOUT", data)
    lines = data.getvalue().splitlines(keepends=True)
    return [b"".join(lines[start : start + ROWS]) for start in range(0, len(lines), ROWS)]
