"""A client's connection: Uvicorn's, with limits on what a client can make it hold and wait for.

Uvicorn itself waits for ever for the end of a request's headers, and takes as many of them as come. It also
loses the body of a request that offers to upgrade the connection, as Java's client does with each first one.
"""

import time
from collections.abc import Iterable
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backend.api import problems
from backend.api.edge import EVERYWHERE
from backend.api.problems import Problem

MOST_HEAD_BYTES: Final = (
    64 * 1024
)  # of headers, of what frames the chunks of a body, and of trailers
HEAD_SECONDS: Final = 10.0  # for all of a request's headers
IDLE_SECONDS: Final = 75.0  # between requests
MOST_CONNECTIONS: Final = 16_384  # of one process
LOOK_SECONDS: Final = 1
UPGRADING: Final = {b"connection", b"upgrade", b"http2-settings"}


class Connection(HttpToolsProtocol):
    """Whoever holds such connections calls `look` on each, every LOOK_SECONDS."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overhead = 0  # bytes of this request, but for its body
        self._in_head = False
        self._refused: Problem | None = None  # once what came before it is answered
        self._since = time.monotonic()  # when the client was left to send something

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._refused:
            return
        self._overhead += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._decline(data[upgrade.args[0] :])
        except HttpParserError:
            self._refuse(problems.NOT_HTTP)
        if self._overhead > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(problems.HEAD_TOO_LARGE)

    def look(self, now: float) -> None:
        """Let a client go that takes too long. While it waits for an answer, the routes look after it."""
        if self._is_answering or self.transport.is_closing():
            return
        waited = now - self._since
        if self._in_head and waited > HEAD_SECONDS:
            self._refuse(problems.HEAD_TOO_SLOW)
        elif waited > IDLE_SECONDS:
            self.transport.close()

    # -- what the parser and Uvicorn call ----------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        super().on_message_begin()
        self._overhead = 0
        self._in_head = True
        self._since = time.monotonic()

    def on_headers_complete(self) -> None:
        """All headers have come."""
        self._in_head = False
        if not self.parser.should_upgrade():
            self.head_came()

    def on_message_complete(self) -> None:
        """All of the request has come."""
        if not self.parser.should_upgrade():
            self.body_came()

    def head_came(self) -> None:
        """There is a request to begin with."""
        super().on_headers_complete()

    def body_came(self) -> None:
        """That request's body is whole."""
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        self._overhead -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """An answer is on its way. As Uvicorn's, but for its timer: `look` is what ends idle connections."""
        if self.transport.is_closing():
            return
        self._since = time.monotonic()
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused:
            self._hang_up(self._refused)

    @property
    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _decline(self, rest: bytes) -> None:
        """Take a request as if it had not offered an upgrade; `rest` is what came behind its headers."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(problems.NOT_HTTP)
            return
        kept = [(name, value) for name, value in self.headers if name not in UPGRADING]
        if any(b"close" in value.lower() for name, value in self.headers if name == b"connection"):
            kept.append((b"connection", b"close"))
        self.parser = HttpRequestParser(self)
        self.data_received(b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method, self.url, head(kept), rest))

    def _refuse(self, problem: Problem) -> None:
        """Answer what came last by a problem, and hang up; what came before it is answered before."""
        unanswered = self._is_answering
        if unanswered and self.cycle.more_body:  # it is in this one's body that something is wrong
            unanswered = bool(self.pipeline)
            if self.pipeline:
                self.pipeline.popleft()
        if unanswered:
            self._refused = problem
            self.flow.pause_reading()
        else:
            self._hang_up(problem)

    def _hang_up(self, problem: Problem) -> None:
        body = problems.encoded(problem)
        headers = (
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *EVERYWHERE,
            *self.server_state.default_headers,
        )
        self.transport.write(STATUS_LINE[problem.status] + head(headers) + b"\r\n" + body)
        self.transport.close()


def head(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers, as they are sent."""
    return b"".join(b"%s: %s\r\n" % header for header in headers)
