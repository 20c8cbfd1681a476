"""The fast path: the routes with most requests, without FastAPI.

FastAPI, and a task for each request, take several times as long as accepting or reading a message does. A
plain request for one of these routes is therefore read on its connection. Requests that arrive at about the
same time are accepted, or read, together, through the same core, bodies and problems as in the ordinary
route; the callback of their group writes the response. Any other request takes the ordinary route. So only
that route, which is also the one in the OpenAPI document, describes what is wrong with a request.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backend.api import problems
from backend.api.headers import (
    COMMON_HEADERS,
    REQUEST_ID,
    Headers,
    Observer,
    encode_headers,
    request_id,
)
from backend.api.parameters import ARRIVED_AT
from backend.api.problems import ProblemException
from backend.api.server.connection import Connection
from backend.api.server.fast_accept import FastAccept
from backend.api.server.fast_read import read_of_head
from backend.api.server.fast_request import (
    NOT_MODIFIED,
    Core,
    FastRequest,
    FastResponse,
    MakeRequest,
    ReceivedHeaders,
)
from backend.api.server.known_heads import KnownHeads
from backend.domain.errors import InstaChatError

REQUESTS: Final[dict[bytes, Callable[[bytes, ReceivedHeaders], MakeRequest | None]]] = {
    b"GET": read_of_head,
    b"POST": FastAccept.from_head,
}
"""For each method: how to make a request of an URL and headers; None if the head is not plain."""

logger = logging.getLogger(__name__)
_CONTENT_HEADERS = ((b"content-type", b"application/json"),)


class FastPath:
    """What all connections of a process share."""

    def __init__(
        self, get_core: Callable[[], Core], observers: Iterable[Observer], headers: Headers = ()
    ) -> None:
        """`get_core` is called once, when the first request arrives: the application runs by then.

        `headers` are those that the application adds to each response beside the common ones.
        """
        self._get_core = get_core
        self.observers = tuple(observers)
        self.common_headers = (*COMMON_HEADERS, *headers)
        self.known_heads = KnownHeads()
        self._starts: dict[int, bytes] = {}
        self._headers: list[tuple[bytes, bytes]] | None = None

    @cached_property
    def core(self) -> Core:
        """What accepts and reads."""
        core = self._get_core()
        core.when_tokens_change(self.known_heads.clear)  # each names the application that it is for
        return core

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The start of a successful response. When Uvicorn's own headers change, it makes a new list."""
        if headers is not self._headers:
            self._headers = headers
            self._starts.clear()
        if (start := self._starts.get(status)) is None:
            content = () if status == NOT_MODIFIED else _CONTENT_HEADERS
            encoded = encode_headers((*content, *self.common_headers, *headers))
            start = self._starts[status] = STATUS_LINE[status] + encoded
        return start


class FastConnection(Connection):
    """A connection that processes plain requests itself, one at a time."""

    def __init__(self, fast_path: FastPath, *args: Any, **kwargs: Any) -> None:
        super().__init__(fast_path.observers, *args, **kwargs)
        self._fast_path = fast_path
        self._fast_request: FastRequest | None = None
        self._make_request: MakeRequest  # set with `_fast_request`
        self._takes_fast_path = True

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. A request with a known head is not parsed."""
        if (waiting := self._fast_request) and waiting.unparsed and waiting.may_fall_back_late:
            self._fall_back(waiting)  # as in `on_message_begin`
        if not self._is_between_requests:
            super().data_received(data)
        elif not self.flow.write_paused and (known := self._fast_path.known_heads.find(data)):
            self._fast_request = self.cycle = known  # type: ignore[assignment]
            known.start(self._fast_path.core, self._respond)
        else:
            super().data_received(data)
            if fast_request := self._fast_request:
                self._fast_path.known_heads.remember(data, fast_request, self._make_request)

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

    def on_message_begin(self) -> None:
        """See Connection. A read that another request follows can't fall back later, so it does so now."""
        if (fast_request := self._fast_request) and fast_request.may_fall_back_late:
            self._fall_back(fast_request)
        super().on_message_begin()

    def on_request_head(self) -> None:
        """See Connection."""
        self.url = self._fast_path.core.original_path(self.url)
        if (
            self._takes_fast_path
            and not self._is_answering
            and not self.flow.write_paused
            and (from_head := REQUESTS.get(self.parser.get_method()))
            and (make_request := from_head(self.url, self.headers))
        ):
            self._make_request = make_request
            fast_request = make_request(self.headers)
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
            fast_request.start(self._fast_path.core, self._respond)

    def _fall_back(self, fast_request: FastRequest) -> None:
        """Pass the request to the ordinary route. Only while it is the last one that has arrived."""
        self._fast_request = self.cycle = None  # type: ignore[assignment]
        if fast_request.unparsed:  # the parser begins the ordinary route
            self._takes_fast_path = False
            super().data_received(fast_request.unparsed)
            self._takes_fast_path = True
            self._hand_over(fast_request)
            return
        super().on_request_head()
        self._hand_over(fast_request)
        HttpToolsProtocol.on_body(self, bytes(fast_request.body))
        if not fast_request.more_body:
            super().on_request_complete()

    def _hand_over(self, fast_request: FastRequest) -> None:
        """Tell the ordinary route when the request arrived, and whether its connection closes afterwards."""
        if self.cycle is not None:
            self.cycle.scope["state"][ARRIVED_AT] = fast_request.started_at
            if not fast_request.keep_alive:
                self.cycle.keep_alive = False

    def _respond(self, fast_request: FastRequest, result: FastResponse | Exception | None) -> None:
        if fast_request is not self._fast_request:  # the ordinary route answers it
            return
        if result is None:
            if self.parser is not None:  # the client is still connected
                self._fall_back(fast_request)
            return
        self._fast_request = None
        rid = request_id(fast_request.headers)
        if isinstance(result, FastResponse):
            status, own_headers, body = result.status, result.headers, result.body
            start = self._fast_path.start(status, self.server_state.default_headers)
        else:
            own_headers = b""
            status, start, body = self._encode_problem(result, rid)
        if not self.transport.is_closing():
            self.transport.write(
                b"%s%s%s: %s\r\n%s%s\r\n%s"
                % (
                    start,
                    own_headers,
                    REQUEST_ID,
                    rid,
                    b"" if status == NOT_MODIFIED else b"content-length: %d\r\n" % len(body),
                    b"" if fast_request.keep_alive else b"connection: close\r\n",
                    body,
                )
            )
            if not fast_request.keep_alive:
                self.transport.close()
        fast_request.response_complete = True
        seconds = time.perf_counter() - fast_request.started_at
        for observe in self._observers:
            observe(rid, fast_request.method, fast_request.route, status, seconds)
        self.on_response_complete()

    def _encode_problem(self, error: Exception, rid: bytes) -> "_EncodedProblem":
        """The response for an error."""
        if isinstance(error, InstaChatError):
            response = problems.error_response(error, rid)
        elif isinstance(error, ProblemException):
            response = problems.response(error.problem)
        else:
            logger.error("a request failed", exc_info=error, extra={"request_id": rid.decode()})
            response = problems.response(problems.FAULT)
        headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        headers += [*self._fast_path.common_headers, *self.server_state.default_headers]
        return _EncodedProblem(
            response.status_code,
            STATUS_LINE[response.status_code] + encode_headers(headers),
            bytes(response.body),
        )


class _EncodedProblem(NamedTuple):
    """A response, but for the headers of its request id, its length and its connection."""

    status: int
    start: bytes
    body: bytes
