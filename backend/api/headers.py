"""The headers of every response, the request's id among them."""

import re
from collections.abc import Callable, Iterable
from itertools import count
from secrets import token_hex

REQUEST_ID = b"x-request-id"
LIST_HEADERS = (b"if-match", b"if-none-match")
"""Of a request: several lines of one name mean the same as one line with all their values (RFC 9110, 5.3)."""
STREAM = "instachat.stream"
"""Set in the scope of a request whose response lasts until the client leaves."""
COMMON_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),  # addresses contain tokens
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)

Headers = Iterable[tuple[bytes, bytes]]
Observer = Callable[[bytes, str, str, int, float], object]
"""Called after each response with: request id, method, route, status, seconds. Must not raise.

Five plain arguments, because an object for each request would cost a measurable part of the fast path.
"""

_is_valid_id = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z").match
_process_prefix = token_hex(6).encode()
_request_count = count(1)


def request_id(headers: Headers) -> bytes:
    """The request's own id if its X-Request-Id is valid, otherwise a new one."""
    for name, value in headers:
        if name == REQUEST_ID and _is_valid_id(value):
            return value
    return b"%s%08x" % (_process_prefix, next(_request_count))


def join_lists(headers: Headers) -> list[tuple[bytes, bytes]]:
    """A request's headers, with one line for each of LIST_HEADERS."""
    received = list(headers)
    for name in LIST_HEADERS:
        values = [value for other, value in received if other == name]
        if len(values) > 1:
            received = [header for header in received if header[0] != name]
            received.append((name, b", ".join(values)))
    return received


def add_common_headers(headers: Headers, rid: bytes) -> list[tuple[bytes, bytes]]:
    """A response's headers, the request id, and each common header that the response does not set itself."""
    response_headers = list(headers)
    names = {name for name, _ in response_headers}
    return [
        *response_headers,
        (REQUEST_ID, rid),
        *(header for header in COMMON_HEADERS if header[0] not in names),
    ]


def encode_headers(headers: Headers) -> bytes:
    """The header lines of HTTP/1.1."""
    return b"".join(b"%s: %s\r\n" % header for header in headers)
