"""The one hot route, POST …/chats/{chat}/messages, in as few steps as can be.

FastAPI, and a task for each request, take several times as long over a request as accepting it does. So a
request for one message that has nothing unusual about it is taken on its connection as soon as it is whole,
by the same `AcceptRequest.messages`, gatherer, body and problems as in the ordinary route, and its answer is
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
from backend.api.middleware import COMMON_HEADERS, REQUEST_ID, Observer, request_id
from backend.api.schemas import PREFIX
from backend.api.server.connection import Connection, encode_headers
from backend.api.server.group_commit import AnswerCallback
from backend.api.service import Service
from backend.domain import serialization
from backend.domain.errors import InstaChatError, Invalid
from backend.domain.model import Accepted
from backend.ingest.requests import AcceptRequest

ROUTE: Final = PREFIX + "/applications/{token}/chats/{chat}/messages"
"""What the log calls it: the ordinary route's path."""

logger = logging.getLogger(__name__)


class FastText(Struct, forbid_unknown_fields=True):
    """As `schemas.Text`, read in a tenth of the time. Other members are not usual."""

    text: str


class FastMessageBody(Struct, forbid_unknown_fields=True):
    """As `schemas.MessageBody`."""

    message: FastText


_decode_body = msgspec.json.Decoder(FastMessageBody).decode
_match_path = re.compile(
    PREFIX.encode() + b"/applications/([A-Za-z0-9_-]{22,64})/chats/([1-9][0-9]{0,14})/messages"
).fullmatch
# Uvicorn stops reading a larger body, until somebody asks for it.
MAX_FAST_BODY_BYTES: Final = HIGH_WATER_LIMIT
# The latter two where they come twice.
EXCLUDED_HEADERS: Final = {b"origin", b"expect", b"content-type", b"idempotency-key"}
_ACCEPTED = 202
_HEADERS = encode_headers(((b"content-type", b"application/json"), *COMMON_HEADERS))
# The body of an answer, but for the number in it.
_BODY_START, _BODY_END = (
    json.dumps(serialization.number(0), separators=(",", ":")).encode().split(b"0")
)


class FastPath:
    """What all of a process's connections share."""

    def __init__(self, service: Callable[[], Service], observers: Iterable[Observer]) -> None:
        """`service` is asked for once, when the application runs."""
        self._service = service
        self.observers = tuple(observers)
        self._start = b""
        self._headers: list[tuple[bytes, bytes]] | None = None

    @cached_property
    def submit(self) -> Callable[[AcceptRequest, AnswerCallback], None]:
        """See `Service.submit`."""
        return self._service().submit

    def start(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """How each good answer starts. Uvicorn makes a new list of its own headers when they change."""
        if headers is not self._headers:
            self._headers = headers
            self._start = STATUS_LINE[_ACCEPTED] + _HEADERS + encode_headers(headers)
        return self._start


class FastRequest:
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
        self.message_event = _NO_EVENT


class _NoEvent:
    """Who waits for a part of the body: nobody."""

    def set(self) -> None: ...


_NO_EVENT = _NoEvent()


class FastConnection(Connection):
    """A connection that takes the usual requests itself, one at a time."""

    def __init__(self, fast_path: FastPath, *args: Any, **kwargs: Any) -> None:
        super().__init__(fast_path.observers, *args, **kwargs)
        self._fast_path = fast_path
        self._fast_request: FastRequest | None = None

    def check_timeouts(self, now: float) -> None:
        """See Connection. The ordinary route is who waits for a slow body."""
        if (fast_request := self._fast_request) and fast_request.more_body:
            self._fall_back(fast_request)
        super().check_timeouts(now)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The ordinary route is who tells of a body that never came."""
        if (fast_request := self._fast_request) and fast_request.more_body:
            self._fall_back(fast_request)
        super().connection_lost(exc)

    def on_request_head(self) -> None:
        """See Connection."""
        if (
            not self._is_answering
            and not self.flow.write_paused
            and (fast_request := self._read_head())
        ):
            fast_request.keep_alive = (
                self.parser.should_keep_alive() and self.parser.get_http_version() == "1.1"
            )
            self._fast_request = self.cycle = fast_request  # type: ignore[assignment]
        else:
            super().on_request_head()

    def on_request_complete(self) -> None:
        """See Connection."""
        super().on_request_complete()
        last: object = self.cycle
        if (fast_request := self._fast_request) and fast_request is last:
            self._accept(fast_request)

    def _read_head(self) -> FastRequest | None:
        """The request, if nothing about its head is unusual."""
        if self.parser.get_method() != b"POST" or not (found := _match_path(self.url)):
            return None
        size, key, kind = 0, None, None
        for name, value in self.headers:
            if name == b"content-type" and kind is None:
                kind = value
            elif name == b"content-length":
                size = int(value)
            elif name == b"idempotency-key" and key is None:
                key = value.decode("latin-1")
            elif name in EXCLUDED_HEADERS:
                return None
        if kind != b"application/json" or not 0 < size <= MAX_FAST_BODY_BYTES:
            return None
        return FastRequest(found[1].decode(), int(found[2]), key, self.headers)

    # -- what becomes of it --------------------------------------------------------------------------

    def _accept(self, fast_request: FastRequest) -> None:
        request = _accept_request(fast_request)
        if request is None:
            self._fall_back(fast_request)
            return
        try:
            self._fast_path.submit(request, self._answer)
        except InstaChatError as error:
            self._answer(error)

    def _fall_back(self, fast_request: FastRequest) -> None:
        """Have the request go the ordinary way. Only while it is the last one that has come."""
        self._fast_request = self.cycle = None  # type: ignore[assignment]
        super().on_request_head()
        self.cycle.keep_alive = self.cycle.keep_alive and fast_request.keep_alive
        HttpToolsProtocol.on_body(self, bytes(fast_request.body))
        if not fast_request.more_body:
            super().on_request_complete()

    def _answer(self, answer: Accepted | Exception) -> None:
        fast_request = self._fast_request
        assert fast_request is not None
        self._fast_request = None
        rid = request_id(fast_request.headers)
        if isinstance(answer, Accepted):
            status = _ACCEPTED
            start = self._fast_path.start(self.server_state.default_headers)
            body = b"%s%d%s" % (_BODY_START, answer.first, _BODY_END)
        else:
            status, start, body = self._problem_response(answer, rid)
        if not self.transport.is_closing():
            self.transport.write(
                b"%s%s: %s\r\ncontent-length: %d\r\n%s\r\n%s"
                % (
                    start,
                    REQUEST_ID,
                    rid,
                    len(body),
                    b"" if fast_request.keep_alive else b"connection: close\r\n",
                    body,
                )
            )
            if not fast_request.keep_alive:
                self.transport.close()
        fast_request.response_complete = True
        seconds = time.perf_counter() - fast_request.began
        for observe in self._observers:
            observe(rid, "POST", ROUTE, status, seconds)
        self.on_response_complete()

    def _problem_response(self, error: Exception, rid: bytes) -> tuple[int, bytes, bytes]:
        """The status, the start and the body of an answer that tells of an error."""
        if isinstance(error, InstaChatError):
            response = problems.error_response(error, rid)
        else:
            logger.error("a request failed", exc_info=error, extra={"request_id": rid.decode()})
            response = problems.response(problems.FAULT)
        headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        headers += [*COMMON_HEADERS, *self.server_state.default_headers]
        return (
            response.status_code,
            STATUS_LINE[response.status_code] + encode_headers(headers),
            bytes(response.body),
        )


def _accept_request(fast_request: FastRequest) -> AcceptRequest | None:
    """The request that a body makes; None if it makes none."""
    try:
        text = _decode_body(fast_request.body).message.text
        return AcceptRequest.messages(
            fast_request.token, fast_request.chat, [text], key=fast_request.key
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError, Invalid):
        return None
