"""The one hot route, POST …/chats/{chat}/messages, in as few steps as can be.

FastAPI takes several times as long over a request as accepting it does. So a request for one message that
has nothing unusual about it is taken here: by the same decoder, `accept.messages`, gatherer, body and
problems as in the ordinary route. Anything unusual, such as a query, another content type, a body in parts,
or one that isn't what it should be, is handed on as it came: the ordinary route, and OpenAPI with it, is the
only one that says what is wrong.
"""

import asyncio
import json
import re
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import accept, bodies
from backend.api import problems
from backend.api.problems import Refused
from backend.api.reading import BODY_SECONDS, MOST_BYTES, decode
from backend.api.service import Service
from backend.api.shapes import PREFIX
from backend.errors import InstaChatError, Invalid


class Route(NamedTuple):
    """What the log and the measures call it: as the ordinary route."""

    path: str


ROUTE = Route(PREFIX + "/applications/{token}/chats/{chat}/messages")
HEADERS = [(b"content-type", b"application/json")]

_match = re.compile(
    PREFIX + "/applications/([A-Za-z0-9_-]{22,64})/chats/([1-9][0-9]{0,14})/messages"
).fullmatch
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Fast:
    """An ASGI application in front of another one; `service` gives what both work with."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service]) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or scope["query_string"]
            or not (found := _match(scope["path"]))
            or not (usual := _usual(scope["headers"]))
        ):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            await problems.response(problems.TOO_SLOW)(scope, receive, send)
            return
        size, key = usual
        token, chat = found.groups()
        whole = message["type"] == "http.request" and len(message["body"]) == size
        request = _request(message["body"], token, chat, key) if whole else None
        if request is None:
            await self._app(scope, _again(message, receive), send)
            return
        scope["route"] = ROUTE
        try:
            accepted = await self._service().accept(request)
        except InstaChatError as error:
            await problems.response(*problems.of(error))(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 202, "headers": HEADERS})
        body = _encode(bodies.number(accepted.first)).encode()
        await send({"type": "http.response.body", "body": body})


def _usual(headers: list[tuple[bytes, bytes]]) -> tuple[int, str | None] | None:
    """The size of the body, and the idempotency key; None if any header is unusual."""
    size, key, is_json = 0, None, False
    for name, value in headers:
        if name == b"content-type":
            is_json = value == b"application/json"
        elif name == b"content-length":
            size = int(value)
        elif name == b"idempotency-key":
            key = value.decode("latin-1")
        elif name in (b"origin", b"expect"):
            return None
    return (size, key) if is_json and 0 < size <= MOST_BYTES else None


def _request(body: bytes, token: str, chat: str, key: str | None) -> accept.Request | None:
    """The request that a body makes; None if it makes none."""
    try:
        text = decode(body)["message"]["text"]
        return accept.messages(token, int(chat), [text], key=key) if type(text) is str else None
    except (Refused, LookupError, TypeError, Invalid):
        return None


def _again(message: Message, receive: Receive) -> Receive:
    """To receive once more what was received already."""
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
