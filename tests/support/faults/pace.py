"""The pace of a writer: how long it pauses between two requests.

A writer without pauses takes all of the processors, from which most faults gain nothing. The long forms of
the tests have none: INSTACHAT_WRITER_PAUSE=0.
"""

import os
import time
from typing import Final

PAUSE_SECONDS: Final = float(os.environ.get("INSTACHAT_WRITER_PAUSE", "0.01"))


def pause() -> None:
    """Pause before the next request."""
    if PAUSE_SECONDS:
        time.sleep(PAUSE_SECONDS)
