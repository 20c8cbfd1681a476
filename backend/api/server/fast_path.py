"""The fast path: `POST …/chats/{chat}/messages`, the route with most requests, without FastAPI.

FastAPI, and a task for each request, take several times as long as accepting the message does. A plain
request for one message is therefore read on its connection. It is accepted through the same
`AcceptRequest.messages`, group commit, body and problems as in the ordinary route, and the callback of its
acceptance writes the response. Any other request takes the ordinary route: one with a query, another content
type, a chunked body, or an invalid value. So only that route, which is also the one in the OpenAPI document,
describes what is wrong.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backend.api import problems
from backend.api.headers import (
    COMMON_HEADERS,
    REQUEST_ID,
    Observer,
    encode_headers,
    request_id,
)
from backend.api.parameters import PREFIX
from backend.api.schemas import FastMessageBody
from backend.api.server.connection import Connection
from backend.api.server.group_commit import Submit
from backend.domain import serialization
from backend.domain.errors import InstaChatError, Invalid
from backend.domain.model import Accepted
from backend.ingest.requests import AcceptRequest

ROUTE: Final = PREFIX + "/applications/{token}/chats/{chat}/messages"
"""The route in the log and the metrics: the path template of the ordinary route."""

logger = logging.getLogger(__name__)


_decode_body = msgspec.json.Decoder(FastMessageBody).decode
_match_path = re.compile(
    PREFIX.encode() + b"/applications/([A-Za-z0-9_-]{22,64})/chats/([1-9][0-9]{0,14})/messages"
).fullmatch
# Uvicorn stops reading a larger body until the application asks for more.
MAX_FAST_BODY_BYTES: Final = HIGH_WATER_LIMIT
# The last two are excluded if they occur twice.
EXCLUDED_HEADERS: Final = {b"origin", b"expect", b"content-type", b"idempotency-key"}
_ACCEPTED = 202
_HEADERS = encode_headers(((b"content-type", b"application/json"), *COMMON_HEADERS))
# The body of a response, before and after the number.
_BODY_START, _BODY_END = (
    json.dumps(serialization.number(0), separators=(",", ":")).encode().split(b"0")
)


class FastPath:
    """What all connections of a process share."""

    def __init__(self, get_submit: Callable[[], Submit], observers: Iterable[Observer]) -> None:
        """`get_submit` is called once, when the first request arrives: the application runs by then."""
        self._get_submit = get_submit
        self.observers = tuple(observers)
        self._start = b""
        self._headers: list[tuple[bytes, bytes]] | None = None

    @cached_property
    def submit(self) -> Submit:
        """See `GroupCommit.submit`."""
        return self._get_submit()

    def start(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The start of each 202. Uvicorn makes a new list of its own headers when they change."""
        if headers is not self._headers:
            self._headers = headers
            self._start = STATUS_LINE[_ACCEPTED] + _HEADERS + encode_headers(headers)
        return self._start


class FastRequest:
    """A plain request for one message. It takes the place of Uvicorn's cycle of a request."""

    __slots__ = (
        "body",
        "chat",
        "disconnected",
        "headers",
        "keep_alive",
        "key",
        "message_event",
        "more_body",
        "response_complete",
        "started_at",
        "token",
    )

    def __init__(self, token: str, chat: int, key: str | None, headers: list[Any]) -> None:
        self.token = token
        self.chat = chat
        self.key = key
        self.headers = headers
        self.started_at = time.perf_counter()
        # The attributes of a cycle that Uvicorn's protocol uses:
        self.body = bytearray()
        self.more_body = True
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NO_EVENT


class _NoEvent:
    """The event of a new part of the body. A plain request has no task that waits for it."""

    def set(self) -> None: ...


_NO_EVENT = _NoEvent()


class FastConnection(Connection):
    """A connection that processes plain requests itself, one at a time."""

    def __init__(self, fast_path: FastPath, *args: Any, **kwargs: Any) -> None:
        super().__init__(fast_path.observers, *args, **kwargs)
        self._fast_path = fast_path
        self._fast_request: FastRequest | None = None

    def check_timeouts(self, now: float) -> None:
        """See Connection. A request whose body is slow takes the ordinary route, which waits for it."""
        if (fast_request := self._fast_request) and fast_request.more_body:
            self._fall_back(fast_request)
        super().check_timeouts(now)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. An incomplete request takes the ordinary route, which logs it."""
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
        """The request, if its head is plain."""
        if self.parser.get_method() != b"POST" or not (match := _match_path(self.url)):
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
        return FastRequest(match[1].decode(), int(match[2]), key, self.headers)

    # -- accepting and responding --------------------------------------------------------------------

    def _accept(self, fast_request: FastRequest) -> None:
        request = _accept_request(fast_request)
        if request is None:
            self._fall_back(fast_request)
            return
        try:
            self._fast_path.submit(request, self._respond)
        except InstaChatError as error:
            self._respond(error)

    def _fall_back(self, fast_request: FastRequest) -> None:
        """Pass the request to the ordinary route. Only while it is the last one that has arrived."""
        self._fast_request = self.cycle = None  # type: ignore[assignment]
        super().on_request_head()
        self.cycle.keep_alive = self.cycle.keep_alive and fast_request.keep_alive
        HttpToolsProtocol.on_body(self, bytes(fast_request.body))
        if not fast_request.more_body:
            super().on_request_complete()

    def _respond(self, result: Accepted | Exception) -> None:
        fast_request = self._fast_request
        assert fast_request is not None
        self._fast_request = None
        rid = request_id(fast_request.headers)
        if isinstance(result, Accepted):
            status = _ACCEPTED
            start = self._fast_path.start(self.server_state.default_headers)
            body = b"%s%d%s" % (_BODY_START, result.first, _BODY_END)
        else:
            status, start, body = self._encode_problem(result, rid)
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
        seconds = time.perf_counter() - fast_request.started_at
        for observe in self._observers:
            observe(rid, "POST", ROUTE, status, seconds)
        self.on_response_complete()

    def _encode_problem(self, error: Exception, rid: bytes) -> "_EncodedResponse":
        """The response for an error."""
        if isinstance(error, InstaChatError):
            response = problems.error_response(error, rid)
        else:
            logger.error("a request failed", exc_info=error, extra={"request_id": rid.decode()})
            response = problems.response(problems.FAULT)
        headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        headers += [*COMMON_HEADERS, *self.server_state.default_headers]
        return _EncodedResponse(
            response.status_code,
            STATUS_LINE[response.status_code] + encode_headers(headers),
            bytes(response.body),
        )


class _EncodedResponse(NamedTuple):
    """A response, but for the headers of its request id, its length and its connection."""

    status: int
    start: bytes
    body: bytes


def _accept_request(fast_request: FastRequest) -> AcceptRequest | None:
    """The accept request for a body; None if the body is invalid."""
    try:
        message = _decode_body(fast_request.body).message.new_message()
        return AcceptRequest.messages(
            fast_request.token, fast_request.chat, [message], key=fast_request.key
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError, Invalid):
        return None
