"""A drain that stops itself (SIGSTOP) once in its transaction, and continues after SIGCONT.

python -m tests.support.faults.sleeper DATABASE REDIS WHERE

WHERE is a step of the drain, or `copy`: in the middle of COPY, with a part of the rows sent.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from unittest.mock import patch

from sqlalchemy import Connection

from backend.bootstrap import open_backend
from backend.domain.errors import InstaChatError
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.settings import Settings
from backend.storage.postgres import messages
from backend.storage.postgres.copy import COPY_LINES_PER_READ
from backend.storage.postgres.messages import RowValues

SENT = 5 * COPY_LINES_PER_READ  # rows, before it stops inside COPY

copy_messages = messages.copy_messages


class Sleeper:
    """Stops this process at the first call."""

    def __init__(self, where: str) -> None:
        self._where = where

    def step(self, name: str) -> None:
        """Stop here if this is the requested step."""
        if name == self._where:
            self._where = ""
            os.kill(os.getpid(), signal.SIGSTOP)

    def copy_messages(self, tx: Connection, rows: Iterable[RowValues]) -> None:
        """COPY that can stop in the middle."""

        def sent() -> Iterator[RowValues]:
            for n, row in enumerate(rows):
                if n == SENT:
                    self.step("copy")
                yield row

        copy_messages(tx, sent())


def main(database: str, redis: str, where: str) -> None:
    """Drain until killed."""
    sleeper = Sleeper(where)
    with (
        patch.object(messages, "copy_messages", sleeper.copy_messages),
        open_backend(Settings(database_url=database, redis_url=redis)) as backend,
    ):
        epochs = Epochs(backend.log, backend.database)
        drainer = Drainer(backend.log, backend.database, epochs, step=sleeper.step)
        while True:
            with suppress(InstaChatError):
                drainer.drain_all()
            time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
