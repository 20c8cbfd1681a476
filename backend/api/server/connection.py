"""A client's connection: Uvicorn's, with limits on the memory and the time that a client can occupy.

Uvicorn itself waits forever for the end of a request's headers, and accepts any number of them. It also loses
the body of a request that offers to upgrade the connection, as Java's client does in its first request; drops
the answer for a client that has closed its half of the connection; and accepts heads that RFC 9112 refuses,
since a proxy may read them in another way.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from backend.api import problems
from backend.api.headers import (
    COMMON_HEADERS,
    REQUEST_ID,
    STREAM,
    Headers,
    Observer,
    encode_headers,
    request_id,
)
from backend.api.problems import Problem
from backend.api.server.bearer import complete_path

MAX_HEADER_BYTES: Final = 64 * 1024  # headers, trailers, and the framing of a chunked body
HEADERS_TIMEOUT_SECONDS: Final = 10.0  # for all headers of a request
IDLE_TIMEOUT_SECONDS: Final = 75.0  # between requests
WRITE_TIMEOUT_SECONDS: Final = 30.0  # while the client does not read what is sent to it
MAX_CONNECTIONS: Final = 16_384  # of one process
TIMEOUT_CHECK_SECONDS: Final = 1
# Parsed in one call. A small chunk limits how many pipelined requests are in memory at the same time.
PARSE_CHUNK_BYTES: Final = 8 * 1024
UPGRADE_HEADERS: Final = {b"connection", b"upgrade", b"http2-settings"}


class Connection(HttpToolsProtocol):
    """A connection. The server calls its `check_timeouts` every TIMEOUT_CHECK_SECONDS."""

    def __init__(self, observers: Iterable[Observer], *args: Any, **kwargs: Any) -> None:
        """`observers` are called for requests that are refused here. The other arguments are Uvicorn's."""
        super().__init__(*args, **kwargs)
        self._observers = tuple(observers)
        # The request that a task is processing; `cycle` is the last one that has arrived.
        self._running_cycle: RequestResponseCycle | None = None
        self._unparsed = b""  # received, while pipelined requests wait
        self._overhead = 0  # bytes of the current request without its body
        self._in_head = False
        self._in_request = False
        self._head_problem: Problem | None = None  # for which the parser was stopped
        self._pending_problem: Problem | None = None  # to be sent after the responses before it
        self._is_half_closed = False  # the client sends nothing more
        self._waiting_since = time.monotonic()  # since when the server waits for the client to send
        self._stalled_since: float | None = None  # since when the client does not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.flow = _HoldingFlowControl(transport, lambda: bool(self.pipeline or self._unparsed))
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        if self._running_cycle:
            self._running_cycle.disconnected = True
            self._running_cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._unparsed = self._unparsed + data if self._unparsed else data
        self._parse()

    def eof_received(self) -> bool:  # type: ignore[override]  # Uvicorn's closes the connection
        """See asyncio.Protocol. What has arrived completely is answered before the connection closes.

        But a stream ends: a client that reads nothing more can't be told from one that has only sent all.
        """
        self._is_half_closed = True
        if self._running_cycle and self._running_cycle.scope.get(STREAM):
            return False
        if self._has_complete_request and not self._unparsed:
            self.cycle.keep_alive = False
        return self._has_complete_request or bool(self.pipeline or self._unparsed)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._stalled_since = time.monotonic()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._stalled_since = None

    def check_timeouts(self, now: float) -> None:
        """Disconnect a client that takes too long. The routes limit the time of a response themselves."""
        if self._stalled_since is not None and now - self._stalled_since > WRITE_TIMEOUT_SECONDS:
            self.transport.abort()
        elif self.transport.is_closing():
            # Data may remain that the client does not read.
            self._stalled_since = self._stalled_since or now
        elif not self._is_answering:
            waited = now - self._waiting_since
            if self._in_head and waited > HEADERS_TIMEOUT_SECONDS:
                self._reject(problems.HEADERS_TOO_SLOW)
            elif waited > IDLE_TIMEOUT_SECONDS:
                self.transport.close()

    # -- called by the parser and by Uvicorn -------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request has arrived."""
        super().on_message_begin()
        self._overhead = 0
        self._in_head = self._in_request = True
        self._waiting_since = time.monotonic()

    def on_headers_complete(self) -> None:
        """All headers of a request have arrived."""
        self._in_head = False
        is_1_1 = self.parser.get_http_version() == "1.1"
        if problem := _problem_of_head(self.headers, is_1_1=is_1_1):
            self._head_problem = problem
            raise HttpParserError  # stops the parser; `_parse` answers
        if not is_1_1:
            self.expect_100_continue = False  # such a client does not know the interim response
        if not self.parser.should_upgrade():
            self.url = complete_path(self.url, self.headers)
            self.on_request_head()

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        self._in_request = False
        if not self.parser.should_upgrade():
            self.on_request_complete()

    def on_request_head(self) -> None:
        """The head of a request that is no upgrade has arrived: start processing it."""
        super().on_headers_complete()

    def on_request_complete(self) -> None:
        """The body of that request has arrived."""
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body has arrived."""
        self._overhead -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Like Uvicorn's, but without a timer: `check_timeouts` closes idle connections."""
        self._running_cycle = None
        if self.transport.is_closing():
            return
        self._waiting_since = time.monotonic()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._pending_problem:
            self._send_problem_and_close(self._pending_problem)
        if self._unparsed:
            self.loop.call_soon(self._parse)
        elif self._is_half_closed and not (self.pipeline or self._has_complete_request):
            self.transport.close()
        else:
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running_cycle = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    @property
    def _has_complete_request(self) -> bool:
        """Whether the last request that has arrived is complete, and not answered."""
        return self._is_answering and not self.cycle.more_body

    @property
    def _is_between_requests(self) -> bool:
        """Whether the next byte received begins a request, which will be processed at once."""
        return not (self._in_request or self._unparsed or self._is_answering)

    def _parse(self) -> None:
        """Parse the received data until a request must wait for the one before it; keep the rest unparsed."""
        data, self._unparsed, at = self._unparsed, b"", 0
        while at < len(data) and not (
            self.pipeline or self._pending_problem or self.transport.is_closing()
        ):
            chunk = data[at : at + PARSE_CHUNK_BYTES]
            at += len(chunk)
            self._overhead += len(chunk)
            try:
                self.parser.feed_data(chunk)
            except HttpParserUpgrade as upgrade:
                data, at = self._decline_upgrade() + data[at - len(chunk) + upgrade.args[0] :], 0
            except HttpParserError:
                self._reject(self._head_problem or problems.NOT_HTTP)
            else:
                if self._overhead > MAX_HEADER_BYTES:
                    self._reject(problems.HEADERS_TOO_LARGE)
        if self._pending_problem or self.transport.is_closing():
            return
        self._unparsed = data[at:]
        if self._is_half_closed and not (
            self._unparsed or self.pipeline or self._has_complete_request
        ):
            self.transport.close()
            return
        # With a large body in memory, the route resumes reading when it has taken the body.
        if not (self._is_answering and len(self.cycle.body) > HIGH_WATER_LIMIT):
            self.flow.resume_reading()

    def _decline_upgrade(self) -> bytes:
        """The head of a request that offers an upgrade, without the offer, for a new parser."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._reject(problems.NOT_HTTP)
            return b""
        remaining = [(name, value) for name, value in self.headers if name not in UPGRADE_HEADERS]
        if any(b"close" in value.lower() for name, value in self.headers if name == b"connection"):
            remaining.append((b"connection", b"close"))
        self.parser = HttpRequestParser(self)
        return b"%s %s HTTP/1.1\r\n%s\r\n" % (method, self.url, encode_headers(remaining))

    def _reject(self, problem: Problem) -> None:
        """Answer the last request with a problem and close the connection, after the responses before it."""
        unanswered = self._is_answering
        if unanswered and self.cycle.more_body:  # the error is in the body of this request
            unanswered = bool(self.pipeline)
            if self.pipeline:
                self.pipeline.popleft()
        if unanswered:
            self._pending_problem = problem
            self.flow.pause_reading()
        else:
            self._send_problem_and_close(problem)

    def _send_problem_and_close(self, problem: Problem) -> None:
        body = problems.encode(problem)
        rid = request_id(())
        headers = (
            (REQUEST_ID, rid),
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *COMMON_HEADERS,
            *self.server_state.default_headers,
        )
        self.transport.write(STATUS_LINE[problem.status] + encode_headers(headers) + b"\r\n" + body)
        self.transport.close()
        for observe in self._observers:
            observe(rid, "-", "-", problem.status, time.monotonic() - self._waiting_since)


def _problem_of_head(headers: Headers, *, is_1_1: bool) -> Problem | None:
    """Why RFC 9112 has a server refuse these headers, or None. The parser has checked the framing itself."""
    hosts = codings = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                return problems.UNKNOWN_TRANSFER_CODING
            codings += 1
    is_host_right = hosts == 1 or (not hosts and not is_1_1)
    is_coding_right = not codings or (codings == 1 and is_1_1)
    return None if is_host_right and is_coding_right else problems.NOT_HTTP


class _HoldingFlowControl(FlowControl):
    """Does not resume reading while received requests have to wait."""

    def __init__(self, transport: asyncio.Transport, has_to_wait: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._has_to_wait = has_to_wait

    def resume_reading(self) -> None:
        if self.read_paused and not self._has_to_wait():
            super().resume_reading()
