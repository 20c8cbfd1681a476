"""The outermost layer, around every request: its id, its headers, its line in the log, and its measures."""

import logging
import re
import time
from collections.abc import Callable, Iterable
from itertools import count
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api import problems

REQUEST_ID = b"x-request-id"
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),  # addresses hold tokens
]
ALONE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
UNCACHED = (b"cache-control", b"no-store")

Observe = Callable[[str, str, str, int, float], object]
"""Told of each answer: request id, method, route, status, seconds."""

_given_id = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z").match
_methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
logger = logging.getLogger(__name__)


class Edge:
    """An ASGI application around another one. `observers` are called for each answer; they must not raise."""

    def __init__(self, app: ASGIApp, observers: Iterable[Observe]) -> None:
        self._app = app
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        rid = request_id(scope)
        scope["instachat.request_id"] = rid
        status = 0

        async def send_more(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_ours(message["headers"], rid)
            await send(message)

        try:
            await self._app(scope, receive, send_more)
        except Exception:
            logger.exception("a request failed", extra={"request_id": rid.decode()})
            if not status:
                await _tell(problems.FAULT, send_more)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "-")
            method = scope["method"] if scope["method"] in _methods else "-"
            for observe in self._observers:
                observe(rid.decode(), method, route, status, seconds)


def request_id(scope: Scope) -> bytes:
    """The id that the request came with, if it is one; else a new one."""
    for name, value in scope["headers"]:
        if name == REQUEST_ID and _given_id(value):
            return bytes(value)
    return f"{_process}{next(_requests):08x}".encode()


def _with_ours(headers: Iterable[tuple[bytes, bytes]], rid: bytes) -> list[tuple[bytes, bytes]]:
    theirs = list(headers)
    names = {name for name, _ in theirs}
    mine = [(REQUEST_ID, rid), *SECURITY, ALONE, UNCACHED]
    return theirs + [header for header in mine if header[0] not in names]


async def _tell(problem: problems.Problem, send: Send) -> None:
    body = problems.encoded(problem)
    headers = [(b"content-type", problems.MEDIA_TYPE.encode())]
    start: dict[str, Any] = {"type": "http.response.start", "status": problem.status}
    await send(start | {"headers": headers})
    await send({"type": "http.response.body", "body": body})


_process = token_hex(6)
_requests = count(1)
