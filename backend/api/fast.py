"""The one hot route, POST …/chats/{chat}/messages, in as few steps as can be.

FastAPI takes several times as long over a request as accepting it does. So a request for one message that
has nothing unusual about it is taken here: by the same `accept.messages`, gatherer, body and problems
as in the ordinary route. Anything unusual, such as a query, another content type, a body in parts,
or one that isn't what it should be, is handed on as it came: the ordinary route, and OpenAPI with it, is the
only one that says what is wrong.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
from msgspec import Struct
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import accept, bodies
from backend.api import problems
from backend.api.edge import EVERYWHERE, REQUEST_ID, Edge, Observe, request_id
from backend.api.patience import Patience
from backend.api.reading import BODY_SECONDS, MOST_BYTES
from backend.api.service import Service
from backend.api.shapes import PREFIX
from backend.errors import InstaChatError, Invalid


class Route(NamedTuple):
    """What the log calls it: the ordinary route's path."""

    path: str


ROUTE = Route(PREFIX + "/applications/{token}/chats/{chat}/messages")
HEADERS = ((b"content-type", b"application/json"), *EVERYWHERE)


class Text(Struct):
    """As `shapes.Text`, read in a tenth of the time."""

    text: str


class MessageBody(Struct):
    """As `shapes.MessageBody`."""

    message: Text


_decode = msgspec.json.Decoder(MessageBody).decode
_match = re.compile(
    PREFIX + "/applications/([A-Za-z0-9_-]{22,64})/chats/([1-9][0-9]{0,14})/messages"
).fullmatch
# The body of an answer, but for the number in it.
_BEFORE, _AFTER = json.dumps(bodies.number(0), separators=(",", ":")).encode().split(b"0")


class Fast:
    """An ASGI application in front of another one; `service` gives what both work with."""

    def __init__(
        self, app: ASGIApp, service: Callable[[], Service], observers: Iterable[Observe]
    ) -> None:
        self._app = app
        self._service = service
        self._observers = tuple(observers)
        self._failed = Edge(_tell, self._observers)
        self._patience = Patience(BODY_SECONDS)

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
        began = time.perf_counter()
        size, key = usual
        token, chat = found.groups()
        try:
            message = await self._patience.wait(receive())
            whole = message["type"] == "http.request" and len(message["body"]) == size
            request = _request(message["body"], token, chat, key) if whole else None
            if request is None:
                await self._app(scope, _again(message, receive), send)
                return
            accepted = await self._service().accept(request)
        except Exception as error:  # noqa: BLE001  # the edge tells of it, as of all others
            scope["instachat.error"] = error
            await self._failed(scope, receive, send)
            return
        rid = request_id(scope["headers"])
        headers = [*HEADERS, (REQUEST_ID, rid)]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        body = b"%s%d%s" % (_BEFORE, accepted.first, _AFTER)
        await send({"type": "http.response.body", "body": body})
        seconds = time.perf_counter() - began
        for observe in self._observers:
            observe(rid, "POST", ROUTE.path, 202, seconds)


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
        text = _decode(body).message.text
        return accept.messages(token, int(chat), [text], key=key)
    except (msgspec.DecodeError, UnicodeError, RecursionError, Invalid):
        return None


async def _tell(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request that failed here."""
    scope["route"] = ROUTE
    error = scope["instachat.error"]
    if isinstance(error, TimeoutError):
        answer = problems.response(problems.TOO_SLOW)
    elif isinstance(error, InstaChatError):
        answer = problems.answer(error, scope["instachat.request_id"])
    else:
        raise error
    await answer(scope, receive, send)


def _again(message: Message, receive: Receive) -> Receive:
    """To receive once more what was received already."""
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
