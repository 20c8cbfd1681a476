"""`/applications/{token}/chats`: the chats of an application."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.openapi import route_responses
from backend.api.parameters import Cascade, IdempotencyKey, Wait
from backend.api.schemas import PREFIX, After, ChatNumber, Limit, Token
from backend.api.service import ServiceDep
from backend.catalog.catalog import PendingNumber
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
    """Create a chat: its number at once. It takes messages from then on."""
    accepted = await service.accept(AcceptRequest.chats(token, key=idempotency_key))
    stored = wait is not None and await service.wait_until(wait, token, None, accepted)
    return JSONResponse(serialization.number(accepted.first), 201 if stored else 202)


@router.get("", response_model=schemas.Page[schemas.Chat], responses=route_responses(404))
async def list_chats(
    service: ServiceDep, token: Token, limit: Limit = schemas.DEFAULT_PAGE_SIZE, after: After = 0
) -> Response:
    """An application's chats by number, with their live counts."""
    found = await service.run(
        lambda: list(service.catalog.chats(token, after=after, limit=limit + 1))
    )
    return page_response([serialization.chat(chat) for chat in found[:limit]], len(found) > limit)


@router.get(
    "/{chat}",
    response_model=schemas.Chat,
    responses=route_responses(404, pending=True),
)
async def show_chat(service: ServiceDep, token: Token, chat: ChatNumber) -> Response:
    """A chat, with its live count of messages."""
    found = await service.run_read(lambda: service.catalog.chat(token, chat))
    if isinstance(found, PendingNumber):
        return JSONResponse(serialization.pending(chat), 202)
    return JSONResponse(serialization.chat(found))


@router.delete("/{chat}", status_code=204, responses=route_responses(404, 409, cascading=True))
async def delete_chat(
    service: ServiceDep, token: Token, chat: ChatNumber, cascade: Cascade = False
) -> Response:
    """Delete a chat that has no messages, or with all of them. Its number is not used again."""
    await service.run_change(
        lambda: service.catalog.delete_chat(token, chat, cascade=cascade), decided_by_drain=True
    )
    return Response(status_code=202 if cascade else 204)


def page_response(items: list[serialization.JsonObject], more: bool) -> Response:
    """A part of a list; with what goes into `after` if there is more behind it."""
    return JSONResponse({"items": items, "next": items[-1]["number"] if more else None})
