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
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

from backend.domain.plurals import counted
from backend.runtime.log_format import (
    OWN_LOGGERS,
    describe_exception,
    describe_place,
    event_text,
    exception_of,
    log_uncaught_exceptions,
)

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
        """Log an event; see `log_format` for what of it."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        fields = {"time": _format_now(), "level": record.levelname, "event": event_text(record)}
        if rid := getattr(record, "request_id", None):
            fields["request_id"] = rid
        if error := exception_of(record):
            fields["exception"] = describe_exception(error)
            fields["where"] = describe_place(error)
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
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lost = counted(dropped, "line was", "lines were")
            queued.append(
                f'{{"time":"{_format_now()}","level":"WARNING","event":"{lost} dropped"}}\n'
            )
        if queued:
            try:
                self._stream.write(_format_lines(queued))
                self._stream.flush()
            except (OSError, ValueError):  # the reader is gone
                pass
        return bool(queued)


def configure() -> AsyncLogHandler:
    """Log to standard error from now on; returns the handler, which also logs requests."""
    handler = AsyncLogHandler(sys.stderr)
    # Only warnings of libraries: SQLAlchemy would log statements with users' texts.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    log_uncaught_exceptions(logging.getLogger(__name__))
    return handler


def _format_lines(lines: Iterable[str | _RequestLine]) -> str:
    """The lines as they are written.

    What many lines have in common is made once: to format a line by itself takes the process twice as long,
    during which the event loop waits.
    """
    parts: list[bytes] = []
    millisecond, start = -1, b""
    for line in lines:
        if isinstance(line, str):
            parts.append(line.encode())
            continue
        at, rid, method, route, status, seconds = line
        if int(at * 1000) != millisecond:
            millisecond = int(at * 1000)
            start = _LINE_START % _format_millisecond(millisecond).encode()
        tenths = int(seconds * 10_000 + 0.5)
        parts += (
            start,
            rid,
            _format_response(method, route, status),
            _TENTHS[tenths] if tenths < len(_TENTHS) else _format_tenths(tenths),
            _LINE_END,
        )
    return b"".join(parts).decode()


@lru_cache(maxsize=1024)
def _format_response(method: str, route: str, status: int) -> bytes:
    return f'","method":"{method}","route":"{route}","status":{status},"ms":'.encode()


def _format_tenths(tenths: int) -> bytes:
    return b"%d.%d" % divmod(tenths, 10)


_LINE_START = b'{"time":"%s","level":"INFO","event":"request","request_id":"'
_LINE_END = b"}\n"
_TENTHS = tuple(map(_format_tenths, range(1_000)))  # those of most requests


def _format_now() -> str:
    return _format_time(time.time())


def _format_time(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return _format_millisecond(int(at * 1000))


@lru_cache(maxsize=2)
def _format_millisecond(milliseconds: int) -> str:
    second = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{second:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
