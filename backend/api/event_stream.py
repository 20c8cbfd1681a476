"""Server-Sent Events: the bytes of each event, and the response that sends them.

The format is FastAPI's. Its own way to send events runs a task group and three tasks for each stream; here a
stream is one coroutine and a task that waits for the client to leave, and the events of a chat are encoded
once for all of its followers.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, assert_never

from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from backend.api.headers import STREAM
from backend.domain import serialization
from backend.live.events import Created, Deleted, Edited, Ended, Event, Gone, Started
from backend.live.hub import Follower

MEDIA_TYPE = "text/event-stream"
KEEPALIVE = KEEPALIVE_COMMENT
RECONNECT_MS = 1_000  # how long a client should wait before it connects again
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_event(event: Event) -> bytes:
    """An event as it is sent.

    Only the events of numbers have an id: a client that connects again resumes after the last one, however
    many edits and deletions followed it.
    """
    match event:
        case Created(message):
            return _event("message", serialization.message(message), event.number)
        case Gone(first, number, reason):
            span = {} if first == number else {"first": first}
            return _event("gone", {"number": number, **span, "reason": reason}, number)
        case Edited(message):
            return _event("edited", serialization.message(message))
        case Deleted(number):
            return _event("deleted", serialization.number(number))
        case Ended():
            return _event("end", {"reason": "deleted"})
        case Started(after):
            return _event("start", {"after": after}, after, RECONNECT_MS)
        case _:
            assert_never(event)


def _event(
    name: str, body: Mapping[str, Any], id_: int | None = None, retry_ms: int | None = None
) -> bytes:
    data = _encode_json(body)
    return format_sse_event(
        event=name, data_str=data, id=None if id_ is None else str(id_), retry=retry_ms
    )


class EventStream(Response):
    """Sends what a follower is told until the client leaves, the chat is deleted or the server stops."""

    media_type = MEDIA_TYPE  # for OpenAPI

    def __init__(self, follower: Follower) -> None:
        super().__init__(
            headers={
                "Content-Type": MEDIA_TYPE,  # without a charset: it is always UTF-8
                "X-Accel-Buffering": "no",  # nginx would collect the events
            }
        )
        del self.headers["content-length"]
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. `send` waits while the client does not read; the server disconnects it after a while."""
        scope[STREAM] = True
        follower = self._follower
        leaving = asyncio.ensure_future(_wait_until_left(receive))
        leaving.add_done_callback(lambda _: follower.close())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in follower.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            follower.close()
            leaving.cancel()


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
