"""The log of the server's processes: JSON, a line for each request and for each event.

No line holds a token or a text: a request is named by its route, not by its path. Lines are written by a
thread of their own, so that a terminal or a pipe that takes nothing can't hold up an answer; if too many
wait, some are dropped, and a line says how many.
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

MOST_LINES = 20_000
BUSY_SECONDS = (
    0.01  # from writing lines to the next, so that few are made ready in a row: the loop waits
)
IDLE_SECONDS = 0.1  # … where there were none


_Request = tuple[float, bytes, str, str, int, float]
"""When it was answered, and what an observer is told."""


class Diary(logging.Handler):
    """Writes lines to a stream, from a thread."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str | _Request] = deque()
        self._dropped = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def request(self, rid: bytes, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        if len(self._lines) >= MOST_LINES:
            self._dropped += 1
            return
        self._lines.append((time.time(), rid, method, route, status, seconds))

    def emit(self, record: logging.LogRecord) -> None:
        """An event; of an exception its type and place, as its words may hold anything."""
        if len(self._lines) >= MOST_LINES:
            self._dropped += 1
            return
        members = {"time": _now(), "level": record.levelname, "event": record.getMessage()}
        if rid := getattr(record, "request_id", None):
            members["request_id"] = rid
        if record.exc_info and record.exc_info[1]:
            members["exception"] = type(record.exc_info[1]).__qualname__
            frames = traceback.extract_tb(record.exc_info[2])
            members["where"] = " < ".join(
                f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames[-8:])
            )
        self._lines.append(json.dumps(members) + "\n")

    def close(self) -> None:
        """Write what is left."""
        self._ended.set()
        self._thread.join(2)
        super().close()

    def _write_all(self) -> None:
        pause = IDLE_SECONDS
        while not self._ended.wait(pause):
            pause = BUSY_SECONDS if self._write() else IDLE_SECONDS
        self._write()

    def _write(self) -> bool:
        """Write what waits; whether there was any."""
        waiting = [self._lines.popleft() for _ in range(len(self._lines))]
        lines = [line if isinstance(line, str) else _line(*line) for line in waiting]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.append(
                f'{{"time":"{_now()}","level":"WARNING","event":"{dropped} lines were dropped"}}\n'
            )
        if lines:
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads it any more
                pass
        return bool(lines)


def configure() -> Diary:
    """Log to standard error from here on. Returns what requests are told to."""
    diary = Diary(sys.stderr)
    # Of libraries warnings only: SQLAlchemy would log statements, with people's texts.
    logging.basicConfig(handlers=[diary], level=logging.WARNING, force=True)
    for name in ("backend", "instachat_cli"):
        logging.getLogger(name).setLevel(logging.INFO)
    return diary


def _line(at: float, rid: bytes, method: str, route: str, status: int, seconds: float) -> str:
    return (
        f'{{"time":"{_time(at)}","level":"INFO","event":"request","request_id":"{rid.decode()}",'
        f'"method":"{method}","route":"{route}","status":{status},"ms":{seconds * 1000:.1f}}}\n'
    )


def _now() -> str:
    return _time(time.time())


def _time(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond; a second's is made once, as it is asked for very often."""
    seconds, fraction = divmod(at, 1)
    return f"{_second(int(seconds))}.{int(fraction * 1000):03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
