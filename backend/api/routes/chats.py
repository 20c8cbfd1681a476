"""`/applications/{token}/chats`: create, list, show, delete."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.openapi import route_responses
from backend.api.parameters import (
    DEFAULT_PAGE_SIZE,
    PREFIX,
    After,
    Cascade,
    ChatNumber,
    IdempotencyKey,
    Limit,
    Token,
    Wait,
)
from backend.api.routes.paging import page_response
from backend.api.service import ServiceDep
from backend.catalog.waiting import PendingNumber
from backend.domain import serialization
from backend.ingest.requests import AcceptRequest

router = APIRouter(prefix=PREFIX + "/applications/{token}/chats", tags=["chats"])


@router.post(
    "",
    status_code=202,
    response_model=schemas.Number,
    responses=route_responses(404, 409, stored=schemas.Number),
)
async def create_chat(
    service: ServiceDep, token: Token, idempotency_key: IdempotencyKey = None, wait: Wait = None
) -> Response:
    """Create a chat and return its number at once. From then on the chat accepts messages."""
    accepted = await service.accept(AcceptRequest.chats(token, key=idempotency_key))
    status = await service.creation_status(wait, token, None, accepted)
    return JSONResponse(serialization.number(accepted.first), status)


@router.get("", response_model=schemas.Page[schemas.Chat], responses=route_responses(404))
async def list_chats(
    service: ServiceDep, token: Token, limit: Limit = DEFAULT_PAGE_SIZE, after: After = 0
) -> Response:
    """List an application's chats, ordered by number, with their live counts of messages."""
    chats = await service.run(
        lambda: list(service.catalog.chats.list(token, after=after, limit=limit + 1))
    )
    return page_response([serialization.chat(chat) for chat in chats], limit)


@router.get(
    "/{chat}",
    response_model=schemas.Chat,
    responses=route_responses(404, pending=True),
)
async def show_chat(service: ServiceDep, token: Token, chat: ChatNumber) -> Response:
    """Show a chat with its live count of messages; 202 while it is accepted and not stored yet."""
    entity = await service.run_read(lambda: service.catalog.chats.get(token, chat))
    if isinstance(entity, PendingNumber):
        return JSONResponse(serialization.pending(chat), 202)
    return JSONResponse(serialization.chat(entity))


@router.delete("/{chat}", status_code=204, responses=route_responses(404, 409, cascading=True))
async def delete_chat(
    service: ServiceDep, token: Token, chat: ChatNumber, cascade: Cascade = False
) -> Response:
    """Delete a chat. One that has messages is deleted only with `cascade`, together with its messages.

    Its number is never used again.
    """
    await service.run_change(
        lambda: service.catalog.chats.delete(token, chat, cascade=cascade), decided_by_drain=True
    )
    return Response(status_code=202 if cascade else 204)
