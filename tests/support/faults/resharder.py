"""A reshard that kills its process at a named step, if it is told to.

python -m tests.support.faults.resharder DATABASE REDIS COUNT [STEP NTH]
"""

import sys

from backend.bootstrap import open_backend
from backend.ingest.barrier import Barrier
from backend.ingest.epochs import Epochs
from backend.maintenance.reshard import Resharder
from backend.settings import Settings
from tests.support.faults.deadly_step import deadly_step


def main(database: str, redis: str, count: str, deadly: str = "", nth: str = "1") -> None:
    """Reshard until killed, or to the end."""
    with open_backend(Settings(database_url=database, redis_url=redis)) as backend:
        epochs = Epochs(backend.log, backend.database)
        barrier = Barrier(backend.log, backend.database, epochs, backend.drainer)
        resharder = Resharder(
            *(backend.log, backend.database, epochs, backend.routing),
            *(backend.counters, barrier, backend.acceptor),
            step=deadly_step(deadly, int(nth)),
        )
        resharder.reshard(int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
