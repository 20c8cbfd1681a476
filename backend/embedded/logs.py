"""The engines' and the supervisor's logs, and errors that quote them."""

import shutil
from contextlib import suppress
from pathlib import Path

from backend.domain.errors import EngineDown
from backend.embedded.home import Layout

LOW_DISK_BYTES = 100_000_000
"""Free bytes on the home's disk below which errors advise to make room."""


def log_size(log: Path) -> int:
    """The size of the log in bytes, 0 if it does not exist."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def engine_down(layout: Layout, message: str, log: str, since: int = 0) -> EngineDown:
    """EngineDown that quotes the log: its path and its last lines after byte `since`."""
    path = layout.log(log)
    return EngineDown(f"{message}; {_log_tail(path, since)}", _log_hint(layout))


def _log_tail(log: Path, since: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(since, log_size(log) - 4000))
            lines = file.read().decode(errors="replace").splitlines()[-5:]
    except OSError:
        lines = []
    if not lines:
        return f"its log, {log}, is empty"
    return f"its log, {log}, ends with\n" + "\n".join(f"    {line}" for line in lines)


def _log_hint(layout: Layout) -> str:
    own = "or set INSTACHAT_DATABASE_URL and INSTACHAT_REDIS_URL to engines of your own"
    with suppress(OSError):
        free = shutil.disk_usage(layout.home).free
        if free < LOW_DISK_BYTES:
            return f"make room: the disk of {layout.home} has {free / 1e6:.0f} MB left; {own}"
    return f"see that log; {own}"
