"""A worker that pauses when its reindex has just been told to stop.

    python -m tests.support.faults.waiting_worker FILE

It creates FILE when it pauses, and continues once FILE is deleted.
"""

import sys
import time
from pathlib import Path
from unittest.mock import patch

from backend.search.reindex import Reindexer
from backend.worker import threads
from instachat_cli.main import run
from tests.support.waiting import PATIENCE_SECONDS

stop = Reindexer.stop


def main(file: str) -> int:
    """Work until SIGTERM; returns the exit code."""
    told = Path(file)

    def stop_and_wait(reindexer: Reindexer) -> None:
        stop(reindexer)
        told.touch()
        while told.exists():
            time.sleep(0.01)

    with (
        patch.object(Reindexer, "stop", stop_and_wait),
        patch.object(threads, "REINDEX_SHUTDOWN_SECONDS", PATIENCE_SECONDS),
    ):
        return run(["worker"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
