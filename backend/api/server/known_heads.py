"""The heads of plain requests: one that this process has parsed before is not parsed again.

A client sends the same head again and again; only the body and its length differ. Parsing and checking the
head takes a quarter of the time that a process spends on creating a message.
"""

from typing import Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from backend.api.server.fast_request import FastRequest, MakeRequest

MAX_HEADS: Final = 4_096
MAX_HEAD_BYTES: Final = 1_024  # of one that is kept; so all of them take 8 MB at most
END_OF_HEAD: Final = b"\r\n\r\n"
# They differ from request to request.
UNIQUE_HEADERS: Final = {b"idempotency-key", b"x-request-id"}
_LENGTH_HEADERS: Final = (b"\r\nContent-Length: %d", b"\r\ncontent-length: %d")

_Head = tuple[bytes, bytes]
"""What is before and after the header with the body's length."""
_NO_HEAD: Final = (b"", b"")


class KnownHeads:
    """How to make the request of each known head. For one event loop.

    Heads that differ only in `Content-Length` count as one. The parser has accepted a known head, and it
    refuses a second length, or chunks beside one. So this header is the body's length, whatever its value.
    """

    def __init__(self) -> None:
        self._known: dict[_Head, MakeRequest] = {}

    def clear(self) -> None:
        """Forget all heads."""
        self._known.clear()

    def find(self, data: bytes) -> FastRequest | None:
        """The request that `data` consists of, if its head is known and its body complete."""
        head, end, body = data.partition(END_OF_HEAD)
        make_request = self._known.get(_without_length(head, len(body)))
        if make_request is None or not end:
            return None
        request = make_request([])  # of its headers, none is of use any more
        request.body = body
        request.more_body = False
        request.unparsed = data
        return request

    def remember(self, data: bytes, request: FastRequest, make_request: MakeRequest) -> None:
        """Keep how such a request is made, if `data` is this request and nothing else.

        The parser was between two requests before it got `data`.
        """
        if (
            request.more_body
            or not request.keep_alive
            or any(name in UNIQUE_HEADERS for name, _ in request.headers)
        ):
            return
        head, end, body = data.partition(END_OF_HEAD)
        found = _without_length(head, len(body))
        if found != _NO_HEAD and end and len(head) <= MAX_HEAD_BYTES and body == request.body:
            if len(self._known) == MAX_HEADS:
                self._known.clear()
            self._known[found] = make_request


def _without_length(head: bytes, length: int) -> _Head:
    """The head without the header for a body of that length; _NO_HEAD if it has none, or that is too long."""
    if not length:
        return head, b""
    if length <= HIGH_WATER_LIMIT:
        for header in _LENGTH_HEADERS:
            before, found, after = head.partition(header % length)
            if found:  # of a greater length, digits are left: no known head has any there
                return before, after
    return _NO_HEAD
