"""Writers, each a process that sends a number of messages, or until SIGTERM, and keeps a ledger.

    python -m tests.support.faults.writer DATABASE REDIS LEDGER TOKEN CHATS MESSAGES BATCH SEED [WRITERS]

All writers except the first are forks of this process, so that the program is loaded once.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from backend.bootstrap import open_backend
from backend.domain.errors import Unavailable, Unconfirmed
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.support.engines import die_with_parent
from tests.support.faults.pace import pause
from tests.support.ledger import Ledger
from tests.support.program_logs import MARKER
from tests.support.waiting import PATIENCE_SECONDS

ENDLESS = 1_000_000
"""With so many messages a writer goes on until it is told to stop, and pauses between its requests."""


def main(*arguments: str) -> None:
    """Run at least one writer; exits with 0 if all of them do."""
    database, redis, ledger, token, chats, messages, batch, seed, *writers = arguments
    forks = []
    for nth in range(1, int(*writers or "1")):
        if fork := os.fork():
            forks.append(fork)
            continue
        die_with_parent()
        ledger, seed, forks = f"{ledger}-{nth}", f"{seed}-{nth}", []
        break
    write(database, redis, ledger, token, chats, messages, batch, seed)
    assert not any(os.waitpid(fork, 0)[1] for fork in forks)


def write(
    database: str,
    redis: str,
    ledger: str,
    token: str,
    chats: str,
    messages: str,
    batch: str,
    seed: str,
) -> None:
    """Send `messages` messages to random chats out of 1 … `chats`, at most `batch` in a request."""
    told_to_stop = False

    def stop(*_: object) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    dice = random.Random(seed)
    book = Ledger(Path(ledger))
    left = int(messages)
    is_endless = left >= ENDLESS
    deadline = time.monotonic() + PATIENCE_SECONDS
    with open_backend(Settings(database_url=database, redis_url=redis)) as backend:
        while left > 0 and not told_to_stop:
            if is_endless:
                pause()
            chat = dice.randint(1, int(chats))
            size = min(left, dice.randint(1, int(batch)))
            texts = [
                f"{MARKER} {seed} {left - i} {dice.getrandbits(64):x} سلام" for i in range(size)
            ]
            try:
                accepted = backend.acceptor.accept(AcceptRequest.messages(token, chat, texts))
            except Unconfirmed:
                book.record_uncertain(token, chat, texts)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
                continue
            else:
                book.record_answer(token, chat, accepted.first, texts)
            left -= size


if __name__ == "__main__":
    main(*sys.argv[1:])
