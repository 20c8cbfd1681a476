"""The middleware answers every request, and reports it to the observers, whatever happens."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.api import problems
from backend.api.middleware import RequestMiddleware


def test_a_cancelled_request_is_answered_with_a_problem() -> None:
    """When the server stops, the answer is a problem with status 503, not Uvicorn's plain text."""
    sent: list[Message] = []
    observed: list[tuple[Any, ...]] = []

    async def hang(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.sleep(60)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def cut_off() -> None:
        middleware = RequestMiddleware(hang, [lambda *arguments: observed.append(arguments)])
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
    assert [arguments[3] for arguments in observed] == [503]
