"""A writer process: sends messages until its time or its count is over, and keeps a ledger.

python -m tests.faults.writer DATABASE REDIS LEDGER TOKEN CHATS MESSAGES BATCH SEED
"""

import random
import sys
import time
from pathlib import Path

from backend import accept
from backend.bootstrap import open_backend
from backend.errors import Unavailable, Unconfirmed
from backend.settings import Settings
from tests.ledger import Ledger

PATIENCE_SECONDS = 60


def main(
    database: str,
    redis: str,
    ledger: str,
    token: str,
    chats: str,
    messages: str,
    batch: str,
    seed: str,
) -> None:
    """Send `messages` messages to random chats out of 1 … `chats`, `batch` at a time at most."""
    dice = random.Random(seed)
    book = Ledger(Path(ledger))
    left = int(messages)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with open_backend(Settings(database_url=database, redis_url=redis)) as backend:
        while left > 0:
            chat = dice.randint(1, int(chats))
            size = min(left, dice.randint(1, int(batch)))
            texts = [f"{seed} {left - i} {dice.getrandbits(64):x} سلام" for i in range(size)]
            try:
                accepted = backend.acceptor.accept(accept.messages(token, chat, texts))
            except Unconfirmed:
                book.uncertain(token, chat, texts)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
                continue
            else:
                book.answered(token, chat, accepted.first, texts)
            left -= size


if __name__ == "__main__":
    main(*sys.argv[1:])
