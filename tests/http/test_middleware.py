"""What is around every request: its log, its measures, and an answer whatever happens."""

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.api import problems
from backend.api.middleware import RequestMiddleware
from backend.api.server import logs
from backend.api.server.logs import AsyncLogHandler
from backend.domain.errors import Busy
from tests.support.waiting import PATIENCE_SECONDS


def test_a_cancelled_request_is_answered_with_a_problem() -> None:
    """At the end of the server; not by Uvicorn's own words."""
    sent: list[Message] = []
    observed: list[tuple[Any, ...]] = []

    async def hang(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.sleep(60)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def cut_off() -> None:
        middleware = RequestMiddleware(hang, [lambda *told: observed.append(told)])
        scope = {"type": "http", "method": "GET", "headers": []}
        request = asyncio.ensure_future(middleware(scope, receive, send))
        await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(cut_off())
    start, body = sent
    assert start["status"] == 503
    assert dict(start["headers"])[b"content-type"] == problems.MEDIA_TYPE.encode()
    assert json.loads(body["body"])["status"] == 503
    assert [told[3] for told in observed] == [503]


def test_too_much_at_once_is_called_busy() -> None:
    """Apart from what is away: the same status, and a type of its own."""
    assert problems.from_error(Busy("too many"))[0] is problems.BUSY


class BlockedStream:
    """A stream that takes nothing until it is let go."""

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
    """Requests and events alike: nobody waits, no more than so many lines are held."""
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
