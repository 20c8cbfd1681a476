"""The one hot route, POST …/chats/{chat}/messages, in as few steps as can be.

FastAPI, and a task for each request, take several times as long over a request as accepting it does. So a
request for one message that has nothing unusual about it is taken on its connection as soon as it is whole,
by the same `accept.messages`, gatherer, body and problems as in the ordinary route, and its answer is
written there by whoever accepted it. Anything unusual, such as a query, another content type, a body in
chunks, or one that isn't what it should be, goes the ordinary way: that route, and OpenAPI with it, is the
only one that says what is wrong.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from backend import accept, bodies
from backend.api import problems
from backend.api.connection import Connection, head
from backend.api.edge import EVERYWHERE, Edge, Observe, request_id
from backend.api.reading import MOST_BYTES
from backend.api.service import Service
from backend.api.shapes import PREFIX
from backend.errors import InstaChatError, Invalid
from backend.model import Accepted


class Route(NamedTuple):
    """What the log calls it: the ordinary route's path."""

    path: str


ROUTE = Route(PREFIX + "/applications/{token}/chats/{chat}/messages")


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
_START = b"HTTP/1.1 202 Accepted\r\n" + head(((b"content-type", b"application/json"), *EVERYWHERE))
# The body of an answer, but for the number in it.
_BEFORE, _AFTER = json.dumps(bodies.number(0), separators=(",", ":")).encode().split(b"0")


class Lane:
    """What all of a process's connections share."""

    def __init__(self, service: Callable[[], Service], observers: Iterable[Observe]) -> None:
        """`service` is asked once the application runs."""
        self.service = service
        self.observers = tuple(observers)
        self.failed = Edge(_tell, self.observers)
        self._start = _START
        self._headers: list[tuple[bytes, bytes]] = []

    def start(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """How each answer starts. Uvicorn makes a new list of its own headers when they change."""
        if headers is not self._headers:
            self._headers = headers
            self._start = _START + head(headers)
        return self._start


class Usual(NamedTuple):
    """A request for a message that has nothing unusual about it, before its body has come."""

    cycle: RequestResponseCycle
    token: str
    chat: int
    key: str | None
    began: float


class FastConnection(Connection):
    """A connection that takes the usual requests itself, one at a time."""

    def __init__(self, lane: Lane, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lane = lane
        self._usual: Usual | None = None

    def look(self, now: float) -> None:
        """See Connection. The ordinary route is who waits for a slow body."""
        if (usual := self._usual) and usual.cycle.more_body:
            self._hand_on(usual, self.app)
        super().look(now)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The ordinary route is who tells of a body that never came."""
        super().connection_lost(exc)
        if (usual := self._usual) and usual.cycle.more_body:
            self._hand_on(usual, self.app)

    def on_message_complete(self) -> None:
        """The body has come."""
        super().on_message_complete()
        if (usual := self._usual) and usual.cycle is self.cycle:
            self._accept(usual)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Where Uvicorn begins to work on a request: its headers have come, and all before it is answered."""
        usual = None if self.flow.write_paused else _usual(cycle)
        if usual is None:
            super()._start_asgi_task(cycle, app)
            return
        self._usual = usual
        if not cycle.more_body:  # it came behind another one
            self._accept(usual)

    def _accept(self, usual: Usual) -> None:
        request = _request(usual)
        if request is None:
            self._hand_on(usual, self.app)
            return
        try:
            self._lane.service().submit(request, self._answer)
        except InstaChatError as error:
            self._answer(error)

    def _answer(self, answer: Accepted | Exception) -> None:
        usual = self._usual
        assert usual is not None
        cycle = usual.cycle
        if isinstance(answer, Exception):
            cycle.scope["instachat.error"] = answer  # type: ignore[typeddict-unknown-key]
            self._hand_on(usual, self._lane.failed)
            return
        self._usual = None
        rid = request_id(cycle.scope["headers"])
        if not self.transport.is_closing():
            body = b"%s%d%s" % (_BEFORE, answer.first, _AFTER)
            self.transport.write(
                b"%sx-request-id: %s\r\ncontent-length: %d\r\n%s\r\n%s"
                % (
                    self._lane.start(self.server_state.default_headers),
                    rid,
                    len(body),
                    b"" if cycle.keep_alive else b"connection: close\r\n",
                    body,
                )
            )
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        seconds = time.perf_counter() - usual.began
        for observe in self._lane.observers:
            observe(rid, "POST", ROUTE.path, 202, seconds)
        self.on_response_complete()

    def _hand_on(self, usual: Usual, app: Any) -> None:
        self._usual = None
        super()._start_asgi_task(usual.cycle, app)


def _usual(cycle: RequestResponseCycle) -> Usual | None:
    """The request, if nothing about its head is unusual."""
    scope = cycle.scope
    if scope["method"] != "POST" or scope["query_string"] or not (found := _match(scope["path"])):
        return None
    size, key, is_json = 0, None, False
    for name, value in scope["headers"]:
        if name == b"content-type":
            is_json = value == b"application/json"
        elif name == b"content-length":
            size = int(value)
        elif name == b"idempotency-key":
            key = value.decode("latin-1")
        elif name in (b"origin", b"expect"):
            return None
    if not (is_json and 0 < size <= MOST_BYTES):
        return None
    return Usual(cycle, found[1], int(found[2]), key, time.perf_counter())


def _request(usual: Usual) -> accept.Request | None:
    """The request that a body makes; None if it makes none."""
    try:
        text = _decode(usual.cycle.body).message.text
        return accept.messages(usual.token, usual.chat, [text], key=usual.key)
    except (msgspec.DecodeError, UnicodeError, RecursionError, Invalid):
        return None


async def _tell(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request that failed here."""
    scope["route"] = ROUTE
    error = scope["instachat.error"]
    if not isinstance(error, InstaChatError):
        raise error
    await problems.answer(error, scope["instachat.request_id"])(scope, receive, send)
