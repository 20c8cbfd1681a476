"""The log never delays a response."""

import json
import logging
import threading
import time
from functools import partial

import pytest

from backend.api.server import logs
from backend.api.server.logs import AsyncLogHandler
from tests.support.waiting import PATIENCE_SECONDS


class BlockedStream:
    """A stream whose `write` blocks until `free` is set."""

    def __init__(self) -> None:
        self.written = ""
        self.asked, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        """See TextIO."""
        self.asked.set()
        self.free.wait(PATIENCE_SECONDS)
        self.written += text
        return len(text)

    def flush(self) -> None:
        """See TextIO."""


def test_a_blocked_log_drops_lines_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging a request or an event never blocks, and at most MAX_LINES lines are in memory."""
    monkeypatch.setattr(logs, "MAX_LINES", 100)
    stream = BlockedStream()
    handler = AsyncLogHandler(stream)  # type: ignore[arg-type]  # it has what is called
    handler.log_request(b"first", "GET", "/", 200, 0.1)
    assert stream.asked.wait(PATIENCE_SECONDS)
    for _ in range(150):
        handler.log_request(b"more", "GET", "/", 200, 0.1)
        handler.emit(logging.makeLogRecord({"msg": "an event", "levelname": "WARNING"}))
    stream.free.set()
    handler.close()
    lines = [json.loads(line) for line in stream.written.splitlines()]
    assert len(lines) == 1 + 100 + 1
    assert lines[-1]["event"] == "200 lines were dropped"


def test_a_line_has_the_time_of_its_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the millisecond, in UTC, whichever lines are written together."""
    stream = BlockedStream()
    stream.free.set()
    handler = AsyncLogHandler(stream)  # type: ignore[arg-type]  # as above
    for at in (1790000000.0, 1790000000.0415, 1790000000.0419, 1790000059.9999, 1790000000.0):
        monkeypatch.setattr(time, "time", partial(float, at))
        handler.log_request(b"rid", "GET", "/", 200, 0.00123)
    handler.close()
    lines = [json.loads(line) for line in stream.written.splitlines()]
    assert [line["time"] for line in lines] == [
        "2026-09-21T14:13:20.000Z",
        "2026-09-21T14:13:20.041Z",
        "2026-09-21T14:13:20.041Z",
        "2026-09-21T14:14:19.999Z",
        "2026-09-21T14:13:20.000Z",
    ]
    assert {line["ms"] for line in lines} == {1.2}


def test_a_line_has_its_request_whichever_lines_are_written_together() -> None:
    """And how long it took, to a tenth of a millisecond."""
    stream = BlockedStream()
    handler = AsyncLogHandler(stream)  # type: ignore[arg-type]  # as above
    responses = [
        (b"a", "GET", "/a", 200, 0.00004, 0.0),
        (b"b", "POST", "/b", 202, 0.00006, 0.1),
        (b"c", "POST", "/b", 503, 0.0999, 99.9),
        (b"d", "GET", "/a", 200, 0.1, 100.0),
        (b"e", "GET", "/a", 404, 12.34567, 12345.7),
    ]
    for rid, method, route, status, seconds, _ in responses:
        handler.log_request(rid, method, route, status, seconds)
        handler.emit(logging.makeLogRecord({"msg": "an event", "levelname": "WARNING"}))
    stream.free.set()
    handler.close()
    lines = [json.loads(line) for line in stream.written.splitlines()]
    names = ("request_id", "method", "route", "status", "ms")
    assert [tuple(line[name] for name in names) for line in lines[::2]] == [
        (rid.decode(), method, route, status, ms) for rid, method, route, status, _, ms in responses
    ]
    assert [line["event"] for line in lines[1::2]] == ["an event"] * len(responses)
