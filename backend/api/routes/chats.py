"""`/applications/{token}/chats`: the chats of an application."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.openapi import answers
from backend.api.parameters import Cascade, IdempotencyKey, Wait
from backend.api.schemas import PREFIX, After, ChatNumber, Limit, Token
from backend.api.service import Here
from backend.catalog.catalog import Pending
from backend.domain import serialization
from backend.ingest import accept

router = APIRouter(prefix=PREFIX + "/applications/{token}/chats", tags=["chats"])


@router.post(
    "",
    status_code=202,
    response_model=schemas.Number,
    responses=answers(404, 409, stored=schemas.Number),
)
async def create_chat(
    here: Here, token: Token, idempotency_key: IdempotencyKey = None, wait: Wait = None
) -> Response:
    """Create a chat: its number at once. It takes messages from then on."""
    accepted = await here.accept(accept.chats(token, key=idempotency_key))
    stored = wait is not None and await here.is_so(wait, token, None, accepted)
    return JSONResponse(serialization.number(accepted.first), 201 if stored else 202)


@router.get("", response_model=schemas.Page[schemas.Chat], responses=answers(404))
async def list_chats(
    here: Here, token: Token, limit: Limit = schemas.ITEMS, after: After = 0
) -> Response:
    """An application's chats by number, with their live counts."""
    found = await here.call(lambda: list(here.catalog.chats(token, after=after, limit=limit + 1)))
    return page([serialization.chat(chat) for chat in found[:limit]], len(found) > limit)


@router.get(
    "/{chat}",
    response_model=schemas.Chat,
    responses=answers(404, pending=True),
)
async def show_chat(here: Here, token: Token, chat: ChatNumber) -> Response:
    """A chat, with its live count of messages."""
    found = await here.read(lambda: here.catalog.chat(token, chat))
    if isinstance(found, Pending):
        return JSONResponse(serialization.pending(chat), 202)
    return JSONResponse(serialization.chat(found))


@router.delete("/{chat}", status_code=204, responses=answers(404, 409, cascading=True))
async def delete_chat(
    here: Here, token: Token, chat: ChatNumber, cascade: Cascade = False
) -> Response:
    """Delete a chat that has no messages, or with all of them. Its number is not used again."""
    await here.change(
        lambda: here.catalog.delete_chat(token, chat, cascade=cascade), decided_later=True
    )
    return Response(status_code=202 if cascade else 204)


def page(items: list[serialization.Body], more: bool) -> Response:
    """A part of a list; with what goes into `after` if there is more behind it."""
    return JSONResponse({"items": items, "next": items[-1]["number"] if more else None})
