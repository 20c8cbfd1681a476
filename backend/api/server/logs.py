"""The log of the server's processes: a line of JSON for each request and for each event.

No line contains a token or a text: a request is logged by its route, not by its path. A thread writes the
lines, so that a blocked terminal or pipe never delays a response. Beyond MAX_LINES waiting lines, further
ones are dropped, and a line says how many.
"""

import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

MAX_LINES = 20_000
# Between two writes. Short, so that each formats few lines: formatting delays the event loop.
BUSY_PAUSE_SECONDS = 0.01
IDLE_PAUSE_SECONDS = 0.1  # after finding nothing to write


_RequestLine = tuple[float, bytes, str, str, int, float]
"""The time of the response, and the arguments of an Observer. A plain tuple: each request makes one."""


class AsyncLogHandler(logging.Handler):
    """Writes lines to a stream from a thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str | _RequestLine] = deque()
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def log_request(self, rid: bytes, method: str, route: str, status: int, seconds: float) -> None:
        """Log a response; an Observer."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append((time.time(), rid, method, route, status, seconds))

    def emit(self, record: logging.LogRecord) -> None:
        """Log an event; of an exception only the type and the place, as its message may contain a text."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        fields = {"time": _format_now(), "level": record.levelname, "event": record.getMessage()}
        if rid := getattr(record, "request_id", None):
            fields["request_id"] = rid
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = type(record.exc_info[1]).__qualname__
            frames = traceback.extract_tb(record.exc_info[2])
            fields["where"] = " < ".join(
                f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames[-8:])
            )
        self._lines.append(json.dumps(fields) + "\n")

    def close(self) -> None:
        """Write the remaining lines."""
        self._closing.set()
        self._thread.join(2)
        super().close()

    def _run(self) -> None:
        pause = IDLE_PAUSE_SECONDS
        while not self._closing.wait(pause):
            pause = BUSY_PAUSE_SECONDS if self._write() else IDLE_PAUSE_SECONDS
        self._write()

    def _write(self) -> bool:
        """Write the waiting lines; returns whether there were any."""
        queued = [self._lines.popleft() for _ in range(len(self._lines))]
        lines = [line if isinstance(line, str) else _format_request(*line) for line in queued]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.append(
                f'{{"time":"{_format_now()}","level":"WARNING","event":"{dropped} lines were dropped"}}\n'
            )
        if lines:
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # the reader is gone
                pass
        return bool(lines)


def configure() -> AsyncLogHandler:
    """Log to standard error from now on; returns the handler, which also logs requests."""
    handler = AsyncLogHandler(sys.stderr)
    # Only warnings of libraries: SQLAlchemy would log statements with users' texts.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("backend", "instachat_cli"):
        logging.getLogger(name).setLevel(logging.INFO)
    return handler


def _format_request(
    at: float, rid: bytes, method: str, route: str, status: int, seconds: float
) -> str:
    return (
        f'{{"time":"{_format_time(at)}","level":"INFO","event":"request","request_id":"{rid.decode()}",'
        f'"method":"{method}","route":"{route}","status":{status},"ms":{seconds * 1000:.1f}}}\n'
    )


def _format_now() -> str:
    return _format_time(time.time())


def _format_time(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return _format_millisecond(int(at * 1000))


# Under load, many lines share a millisecond; all else of a line costs half as much.
@lru_cache(maxsize=2)
def _format_millisecond(milliseconds: int) -> str:
    second = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
