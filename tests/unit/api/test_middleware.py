"""The middleware answers every request, and reports it to the observers, whatever happens."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.api import problems
from backend.api.middleware import RequestMiddleware


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("GET", "unavailable"),
        ("PATCH", "unconfirmed"),
        ("POST", "unconfirmed"),
    ],
)
def test_a_cancelled_request_is_answered_with_a_problem(method: str, name: str) -> None:
    """When the server stops, the answer is a problem with status 503, not Uvicorn's plain text.

    What the request would have changed may be changed.
    """
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
        scope = {"type": "http", "method": method, "headers": []}
        request = asyncio.ensure_future(middleware(scope, receive, send))
        await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(cut_off())
    start, body = sent
    assert start["status"] == 503
    assert dict(start["headers"])[b"content-type"] == problems.MEDIA_TYPE.encode()
    problem = json.loads(body["body"])
    assert (problem["status"], problem["type"].rpartition(":")[2]) == (503, name)
    assert [arguments[3] for arguments in observed] == [503]
