"""A worker process that kills itself at a named step of the drain, if it is told to.

python -m tests.support.faults.drainer DATABASE REDIS [STEP NTH]
"""

import sys
import time
from contextlib import suppress

from backend.bootstrap import open_backend
from backend.domain.errors import InstaChatError
from backend.ingest.drain import Drainer
from backend.ingest.epochs import Epochs
from backend.settings import Settings
from tests.support.faults.deadly_step import deadly_step


def main(database: str, redis: str, deadly: str = "", nth: str = "1") -> None:
    """Drain until killed."""
    with open_backend(Settings(database_url=database, redis_url=redis)) as backend:
        epochs = Epochs(backend.log, backend.database)
        drainer = Drainer(backend.log, backend.database, epochs, step=deadly_step(deadly, int(nth)))
        while True:
            with suppress(InstaChatError):
                drainer.drain_all()
            time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
