"""`/applications/{token}/chats`: create, list, show, delete."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.conditional import read_response
from backend.api.openapi import route_responses
from backend.api.parameters import (
    DEFAULT_PAGE_SIZE,
    PREFIX,
    After,
    Cascade,
    ChatNumber,
    IdempotencyKey,
    IfNoneMatch,
    Limit,
    Token,
    Wait,
)
from backend.api.service import ServiceDep
from backend.catalog.waiting import PendingNumber
from backend.domain import serialization
from backend.ingest.requests import AcceptRequest

router = APIRouter(prefix=PREFIX + "/applications/{token}/chats", tags=["chats"])


@router.post(
    "",
    status_code=202,
    response_model=schemas.Number,
    responses=route_responses(404, 409, 429, stored=schemas.Number),
)
async def create_chat(
    service: ServiceDep, token: Token, idempotency_key: IdempotencyKey = None, wait: Wait = None
) -> Response:
    """Create a chat and return its number at once. From then on the chat accepts messages."""
    accepted = await service.accept(AcceptRequest.chats(token, key=idempotency_key))
    status = await service.creation_status(wait, token, None, accepted)
    return JSONResponse(serialization.number(accepted.first), status)


@router.get(
    "",
    response_model=schemas.CountedPage[schemas.Chat],
    responses=route_responses(404, read=True),
)
async def list_chats(
    service: ServiceDep,
    token: Token,
    limit: Limit = DEFAULT_PAGE_SIZE,
    after: After = 0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """List an application's chats, ordered by number, with their live counts of messages.

    `total` is the live count of the application's chats.
    """
    page = await service.run(
        token, lambda: service.catalog.chats.page(token, after=after, limit=limit)
    )
    return read_response(serialization.chat_page(page), if_none_match)


@router.get(
    "/{chat}",
    response_model=schemas.Chat,
    responses=route_responses(404, read=True, pending=True),
)
async def show_chat(
    service: ServiceDep, token: Token, chat: ChatNumber, if_none_match: IfNoneMatch = None
) -> Response:
    """Show a chat with its live count of messages; 202 while it is accepted and not stored yet."""
    entity = await service.run_read(token, lambda: service.catalog.chats.get(token, chat))
    if isinstance(entity, PendingNumber):
        return JSONResponse(serialization.pending(chat), 202)
    return read_response(serialization.chat(entity), if_none_match)


@router.delete("/{chat}", status_code=204, responses=route_responses(404, 409, cascading=True))
async def delete_chat(
    service: ServiceDep, token: Token, chat: ChatNumber, cascade: Cascade = False
) -> Response:
    """Delete a chat. One that has messages is deleted only with `cascade`, together with its messages.

    Its number is never used again.
    """
    await service.run_change(
        token,
        lambda: service.catalog.chats.delete(token, chat, cascade=cascade),
        decided_by_drain=True,
    )
    return Response(status_code=202 if cascade else 204)
