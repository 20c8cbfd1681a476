"""Where the time of the hot route goes, inside of the server: its application, called without a network."""

import asyncio
import cProfile
from typing import Any

from starlette.types import ASGIApp, Message

from backend import accept
from backend.api.app import create_app, served
from backend.settings import Settings
from instachat_cli.bench.duel import largest

CLIENTS = 64
REQUESTS = 50  # of each
_BODY = b'{"message": {"text": "Good morning, how are you? I hope all is well with you today."}}'


def profile(settings: Settings) -> str:
    """The largest parts of the event loop's time; what the HTTP server and the network add is not in it."""
    return asyncio.run(_profile(settings))


async def _profile(settings: Settings) -> str:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        backend = app.state.service.core
        token = backend.catalog.create_application("benchmark").token
        chat = backend.acceptor.accept(accept.chats(token)).first
        answer = served(app, [])
        path = f"/api/v1/applications/{token}/chats/{chat}/messages"
        measured = cProfile.Profile()
        measured.enable()
        await asyncio.gather(*(_client(answer, path) for _ in range(CLIENTS)))
        measured.disable()
    return largest(measured)


async def _client(answer: ASGIApp, path: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    for _ in range(REQUESTS):
        await answer(scope | {"headers": headers}, _receive, _send)


async def _receive() -> Message:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(_: Message) -> None: ...
