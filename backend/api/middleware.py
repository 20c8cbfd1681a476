"""The outermost layer around every request: its id, its headers, its log line, its metrics."""

import asyncio
import logging
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api import problems
from backend.api.headers import STREAM, Observer, add_common_headers, request_id

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """An ASGI application around another one; it calls `observers` after each response.

    For a stream it calls them when the response begins.
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
        status = 0
        observed = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = add_common_headers(message["headers"], rid)
                if scope.get(STREAM):  # its end says nothing about the server
                    observe()
            await send(message)

        def observe() -> None:
            nonlocal observed
            if not observed:
                observed = True
                seconds = time.perf_counter() - started_at
                route = getattr(scope.get("route"), "path", "-")
                method = scope["method"] if scope["method"] in METHODS else "-"
                for observer in self._observers:
                    observer(rid, method, route, status, seconds)

        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the server is stopping and has waited long enough
            if not status:
                await problems.response(problems.STOPPING)(scope, receive, send_with_headers)
            raise
        except Exception:
            logger.exception("a request failed", extra={"request_id": rid.decode()})
            if not status:
                await problems.response(problems.FAULT)(scope, receive, send_with_headers)
        finally:
            observe()
