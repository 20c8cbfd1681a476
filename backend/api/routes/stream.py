"""`/applications/{token}/chats/{chat}/messages/stream`: follow a chat."""

from fastapi import APIRouter, Response

from backend.api.event_stream import EventStream
from backend.api.openapi import route_responses
from backend.api.parameters import PREFIX, AfterNumber, ChatNumber, LastEventId, Token
from backend.api.service import ServiceDep

router = APIRouter(prefix=PREFIX + "/applications/{token}/chats/{chat}/messages", tags=["messages"])


@router.get("/stream", status_code=200, response_class=EventStream, responses=route_responses(404))
async def stream_messages(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    after: AfterNumber = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Follow a chat by Server-Sent Events: each message once, in the order of numbers, once it is stored.

    `event: message` has the message; `event: gone` names a number that holds none. Both have the number as
    their `id`. `event: edited` and `event: deleted` tell of messages that the client has passed. `event:
    start` names the number after which a stream without `after` and `Last-Event-ID` begins. `event: end`
    says that the chat was deleted.
    """
    return EventStream(
        await service.follow(token, chat, after if last_event_id is None else last_event_id)
    )
