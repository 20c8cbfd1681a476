"""The one hot route, POST …/chats/{chat}/messages, in as few steps as can be.

FastAPI, and a task for each request, take several times as long over a request as accepting it does. So a
request for one message that has nothing unusual about it is taken on its connection as soon as it is whole,
by the same `accept.messages`, gatherer, body and problems as in the ordinary route, and its answer is
written there by whoever accepted it. Anything unusual, such as a query, another content type, a body in
chunks, or one that isn't what it should be, goes the ordinary way: that route, and OpenAPI with it, is the
only one that says what is wrong.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final

import msgspec
from msgspec import Struct
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backend.api import problems
from backend.api.middleware import EVERYWHERE, REQUEST_ID, Observe, request_id
from backend.api.schemas import PREFIX
from backend.api.server.connection import Connection, head
from backend.api.server.group_commit import Answer
from backend.api.service import Service
from backend.domain import serialization
from backend.domain.errors import InstaChatError, Invalid
from backend.domain.model import Accepted
from backend.ingest import accept

ROUTE: Final = PREFIX + "/applications/{token}/chats/{chat}/messages"
"""What the log calls it: the ordinary route's path."""

logger = logging.getLogger(__name__)


class Text(Struct, forbid_unknown_fields=True):
    """As `shapes.Text`, read in a tenth of the time. Other members are not usual."""

    text: str


class MessageBody(Struct, forbid_unknown_fields=True):
    """As `shapes.MessageBody`."""

    message: Text


_decode = msgspec.json.Decoder(MessageBody).decode
_match = re.compile(
    PREFIX.encode() + b"/applications/([A-Za-z0-9_-]{22,64})/chats/([1-9][0-9]{0,14})/messages"
).fullmatch
# Uvicorn stops reading a larger body, until somebody asks for it.
MOST_USUAL_BYTES: Final = HIGH_WATER_LIMIT
# The latter two where they come twice.
UNUSUAL: Final = {b"origin", b"expect", b"content-type", b"idempotency-key"}
_STATUS = 202
_HEADERS = head(((b"content-type", b"application/json"), *EVERYWHERE))
# The body of an answer, but for the number in it.
_BEFORE, _AFTER = json.dumps(serialization.number(0), separators=(",", ":")).encode().split(b"0")


class Lane:
    """What all of a process's connections share."""

    def __init__(self, service: Callable[[], Service], observers: Iterable[Observe]) -> None:
        """`service` is asked for once, when the application runs."""
        self._service = service
        self.observers = tuple(observers)
        self._start = b""
        self._headers: list[tuple[bytes, bytes]] | None = None

    @cached_property
    def submit(self) -> Callable[[accept.Request, Answer], None]:
        """See `Service.submit`."""
        return self._service().submit

    def start(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """How each good answer starts. Uvicorn makes a new list of its own headers when they change."""
        if headers is not self._headers:
            self._headers = headers
            self._start = STATUS_LINE[_STATUS] + _HEADERS + head(headers)
        return self._start


class Usual:
    """A request for a message that has nothing unusual about it, instead of Uvicorn's cycle of one."""

    __slots__ = (
        "began",
        "body",
        "chat",
        "disconnected",
        "headers",
        "keep_alive",
        "key",
        "message_event",
        "more_body",
        "response_complete",
        "token",
    )

    def __init__(self, token: str, chat: int, key: str | None, headers: list[Any]) -> None:
        self.token = token
        self.chat = chat
        self.key = key
        self.headers = headers
        self.began = time.perf_counter()
        # What Uvicorn's protocol reads and writes of a cycle:
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY


class _Nobody:
    """Who waits for a part of the body: nobody."""

    def set(self) -> None: ...


_NOBODY = _Nobody()


class FastConnection(Connection):
    """A connection that takes the usual requests itself, one at a time."""

    def __init__(self, lane: Lane, *args: Any, **kwargs: Any) -> None:
        super().__init__(lane.observers, *args, **kwargs)
        self._lane = lane
        self._usual: Usual | None = None

    def look(self, now: float) -> None:
        """See Connection. The ordinary route is who waits for a slow body."""
        if (usual := self._usual) and usual.more_body:
            self._hand_on(usual)
        super().look(now)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The ordinary route is who tells of a body that never came."""
        if (usual := self._usual) and usual.more_body:
            self._hand_on(usual)
        super().connection_lost(exc)

    def head_came(self) -> None:
        """See Connection."""
        if not self._is_answering and not self.flow.write_paused and (usual := self._is_usual()):
            usual.keep_alive = (
                self.parser.should_keep_alive() and self.parser.get_http_version() == "1.1"
            )
            self._usual = self.cycle = usual  # type: ignore[assignment]
        else:
            super().head_came()

    def body_came(self) -> None:
        """See Connection."""
        super().body_came()
        last: object = self.cycle
        if (usual := self._usual) and usual is last:
            self._accept(usual)

    def _is_usual(self) -> Usual | None:
        """The request, if nothing about its head is unusual."""
        if self.parser.get_method() != b"POST" or not (found := _match(self.url)):
            return None
        size, key, kind = 0, None, None
        for name, value in self.headers:
            if name == b"content-type" and kind is None:
                kind = value
            elif name == b"content-length":
                size = int(value)
            elif name == b"idempotency-key" and key is None:
                key = value.decode("latin-1")
            elif name in UNUSUAL:
                return None
        if kind != b"application/json" or not 0 < size <= MOST_USUAL_BYTES:
            return None
        return Usual(found[1].decode(), int(found[2]), key, self.headers)

    # -- what becomes of it --------------------------------------------------------------------------

    def _accept(self, usual: Usual) -> None:
        request = _request(usual)
        if request is None:
            self._hand_on(usual)
            return
        try:
            self._lane.submit(request, self._answer)
        except InstaChatError as error:
            self._answer(error)

    def _hand_on(self, usual: Usual) -> None:
        """Have the request go the ordinary way. Only while it is the last one that has come."""
        self._usual = self.cycle = None  # type: ignore[assignment]
        super().head_came()
        self.cycle.keep_alive = self.cycle.keep_alive and usual.keep_alive
        HttpToolsProtocol.on_body(self, bytes(usual.body))
        if not usual.more_body:
            super().body_came()

    def _answer(self, answer: Accepted | Exception) -> None:
        usual = self._usual
        assert usual is not None
        self._usual = None
        rid = request_id(usual.headers)
        if isinstance(answer, Accepted):
            status = _STATUS
            start = self._lane.start(self.server_state.default_headers)
            body = b"%s%d%s" % (_BEFORE, answer.first, _AFTER)
        else:
            status, start, body = self._problem(answer, rid)
        if not self.transport.is_closing():
            self.transport.write(
                b"%s%s: %s\r\ncontent-length: %d\r\n%s\r\n%s"
                % (
                    start,
                    REQUEST_ID,
                    rid,
                    len(body),
                    b"" if usual.keep_alive else b"connection: close\r\n",
                    body,
                )
            )
            if not usual.keep_alive:
                self.transport.close()
        usual.response_complete = True
        seconds = time.perf_counter() - usual.began
        for observe in self._observers:
            observe(rid, "POST", ROUTE, status, seconds)
        self.on_response_complete()

    def _problem(self, error: Exception, rid: bytes) -> tuple[int, bytes, bytes]:
        """The status, the start and the body of an answer that tells of an error."""
        if isinstance(error, InstaChatError):
            response = problems.answer(error, rid)
        else:
            logger.error("a request failed", exc_info=error, extra={"request_id": rid.decode()})
            response = problems.response(problems.FAULT)
        headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        headers += [*EVERYWHERE, *self.server_state.default_headers]
        return (
            response.status_code,
            STATUS_LINE[response.status_code] + head(headers),
            bytes(response.body),
        )


def _request(usual: Usual) -> accept.Request | None:
    """The request that a body makes; None if it makes none."""
    try:
        text = _decode(usual.body).message.text
        return accept.messages(usual.token, usual.chat, [text], key=usual.key)
    except (msgspec.DecodeError, UnicodeError, RecursionError, Invalid):
        return None
