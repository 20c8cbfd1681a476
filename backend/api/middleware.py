"""The outermost layer around every request: its id, its headers, HEAD, its log line, its metrics."""

import asyncio
import logging
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api import problems
from backend.api.headers import STREAM, Observer, add_common_headers, join_lists, request_id

READING_METHODS = {"GET", "HEAD", "OPTIONS"}
METHODS = READING_METHODS | {"POST", "PUT", "PATCH", "DELETE"}

ENCODED_SLASH = b"%2f"
"""In lower case. Routes match the decoded path, in which it would separate segments; no segment has one."""

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """An ASGI application around another one; it calls `observers` after each response.

    For a stream it calls them when the response begins. The inner application gets HEAD as GET; of its
    response only the head is sent.
    """

    def __init__(self, app: ASGIApp, observers: Iterable[Observer]) -> None:
        self.app = app
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at = time.perf_counter()
        rid = request_id(scope["headers"])
        scope["instachat.request_id"] = rid
        scope["headers"] = join_lists(scope["headers"])
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET"} if is_head else scope
        status = 0
        observed = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = add_common_headers(message["headers"], rid)
                if inner.get(STREAM):  # its end says nothing about the server
                    observe()
                await send(message)
                if is_head:  # now, because a stream's body has no end
                    await send({"type": "http.response.body", "body": b""})
            elif not is_head:
                await send(message)

        def observe() -> None:
            nonlocal observed
            if not observed:
                observed = True
                seconds = time.perf_counter() - started_at
                route = getattr(inner.get("route"), "path", "-")
                method = scope["method"] if scope["method"] in METHODS else "-"
                for observer in self._observers:
                    observer(rid, method, route, status, seconds)

        has_encoded_slash = ENCODED_SLASH in scope.get("raw_path", b"").lower()
        app = problems.response(problems.NOT_FOUND) if has_encoded_slash else self.app
        try:
            await app(inner, receive, send_with_headers)
        except asyncio.CancelledError:  # the server is stopping and has waited long enough
            if not status:
                is_read = scope["method"] in READING_METHODS
                problem = problems.STOPPING if is_read else problems.UNCONFIRMED
                await problems.response(problem)(scope, receive, send_with_headers)
            raise
        except Exception:
            logger.exception("a request failed", extra={"request_id": rid.decode()})
            if not status:
                await problems.response(problems.FAULT)(scope, receive, send_with_headers)
        finally:
            observe()
