"""Fills the message table directly, for benchmarks that need data but do not measure storing it."""

import random
from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import text

from backend.storage.postgres import messages
from backend.storage.postgres.messages import MessageRow
from instachat_cli.bench.harness.environment import Environment
from loadtest.corpus.conversations import lines

LARGE_CHAT_ID = 1  # the id of the large chat, which holds a tenth of the messages
SMALL_CHATS = 900  # that share the other messages
ROWS_PER_COPY = 5_000
SEED = 20_261_124
MESSAGE_VERSION = 1_767_225_600_000_000  # of every message, in microseconds


def store_messages(env: Environment, count: int) -> None:
    """Store `count` messages, a tenth of them in one chat, without adding them to the outbox."""
    rows = _rows(list(lines()), count, random.Random(SEED))
    with env.backend.database.begin() as tx:
        while batch := list(islice(rows, ROWS_PER_COPY)):
            messages.copy_messages(tx, batch)
    with env.backend.database.connect() as connection:
        connection.execute(text("VACUUM ANALYZE message"))


def random_text(spoken: Sequence[str], rng: random.Random) -> str:
    """One or two of the lines, in a fifth of the cases followed by a number."""
    parts = rng.choices(spoken, k=rng.choice((1, 2, 2)))
    if rng.random() < 0.2:
        parts.append(f"#{rng.randrange(10**6)}")
    return " ".join(parts)


def _rows(spoken: Sequence[str], count: int, rng: random.Random) -> Iterator[MessageRow]:
    large = count // 10
    small = max((count - large) // SMALL_CHATS, 1)
    for n in range(count):
        line = random_text(spoken, rng)
        chat, before = (0, n) if n < large else divmod(n - large + small, small)
        yield MessageRow.new(LARGE_CHAT_ID + chat, before + 1, line, MESSAGE_VERSION)
