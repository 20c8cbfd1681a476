"""Server-Sent Events: the bytes of each event, and the response that sends them.

The format is FastAPI's. Its own way to send events runs a task group and three tasks for each stream; here a
stream is one coroutine and a task that waits for the client to leave, and the events of a chat are encoded
once for all of its followers.
"""

import asyncio

from fastapi import Response
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Receive, Scope, Send

from backend.api.conditional import encode_json
from backend.api.headers import STREAM
from backend.live.events import Created, Event, Gone, Started
from backend.live.hub import Follower
from backend.live.serialization import event_object

MEDIA_TYPE = "text/event-stream"
KEEPALIVE = KEEPALIVE_COMMENT
RECONNECT_MS = 1_000  # how long a client should wait before it connects again


def encode_event(event: Event) -> bytes:
    """An event as it is sent.

    Only the events of numbers have an id: a client that connects again resumes after the last one, however
    many edits and deletions followed it.
    """
    name, body = event_object(event)
    id_: int | None = None
    if isinstance(event, Created | Gone):
        id_ = event.number
    elif isinstance(event, Started):
        id_ = event.after
    return format_sse_event(
        event=name,
        data_str=encode_json(body).decode(),
        id=None if id_ is None else str(id_),
        retry=RECONNECT_MS if isinstance(event, Started) else None,
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
