"""The outermost layer, around every request: its id, its headers, its line in the log, and its measures."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from itertools import count
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api import problems

REQUEST_ID = b"x-request-id"
COMMON_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),  # addresses hold tokens
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

Headers = Iterable[tuple[bytes, bytes]]
Observer = Callable[[bytes, str, str, int, float], object]
"""Told of each answer: request id, method, route, status, seconds. Must not raise."""

logger = logging.getLogger(__name__)
_is_valid_id = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z").match
_process_prefix = token_hex(6).encode()
_request_count = count(1)


class RequestMiddleware:
    """An ASGI application around another one; `observers` are told of each answer."""

    def __init__(self, app: ASGIApp, observers: Iterable[Observer]) -> None:
        self.app = app
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        rid = request_id(scope["headers"])
        scope["instachat.request_id"] = rid
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = add_common_headers(message["headers"], rid)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server ends, and this has taken too long
            if not status:
                await problems.response(problems.UNAVAILABLE)(scope, receive, send_with_headers)
            raise
        except Exception:
            logger.exception("a request failed", extra={"request_id": rid.decode()})
            if not status:
                await problems.response(problems.FAULT)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "-")
            method = scope["method"] if scope["method"] in METHODS else "-"
            for observe in self._observers:
                observe(rid, method, route, status, seconds)


def request_id(headers: Headers) -> bytes:
    """The id that the request came with, if it can be one; else a new one."""
    for name, value in headers:
        if name == REQUEST_ID and _is_valid_id(value):
            return value
    return b"%s%08x" % (_process_prefix, next(_request_count))


def add_common_headers(headers: Headers, rid: bytes) -> list[tuple[bytes, bytes]]:
    """An answer's headers, with the request's id and what every answer has; its own win."""
    response_headers = list(headers)
    names = {name for name, _ in response_headers}
    return [
        *response_headers,
        (REQUEST_ID, rid),
        *(header for header in COMMON_HEADERS if header[0] not in names),
    ]
