"""`/applications/{token}/chats`: the chats of an application."""

from itertools import islice

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend import accept, bodies
from backend.api import shapes
from backend.api.service import Here
from backend.api.shapes import After, ChatNumber, Limit, Token
from backend.catalog import Pending

router = APIRouter(prefix="/applications/{token}/chats", tags=["chats"])


@router.post("", status_code=202, response_model=shapes.Number)
async def create_chat(here: Here, token: Token) -> Response:
    """Create a chat: its number at once. It takes messages from then on."""
    accepted = await here.accept(accept.chats(token))
    return JSONResponse(bodies.number(accepted.first), 202)


@router.get("", response_model=shapes.Page[shapes.Chat])
async def list_chats(
    here: Here, token: Token, limit: Limit = shapes.ITEMS, after: After = 0
) -> Response:
    """An application's chats by number, with their live counts."""
    found = await here.call(
        lambda: list(here.core.catalog.chats(token, after=after, limit=limit + 1))
    )
    return page([bodies.chat(chat) for chat in islice(found, limit)], len(found) > limit)


@router.get("/{chat}", response_model=shapes.Chat, responses={202: {"model": shapes.Pending}})
async def show_chat(here: Here, token: Token, chat: ChatNumber) -> Response:
    """A chat, with its live count of messages."""
    found = await here.call(lambda: here.core.catalog.chat(token, chat))
    if isinstance(found, Pending):
        return JSONResponse(bodies.pending(chat), 202)
    return JSONResponse(bodies.chat(found))


@router.delete("/{chat}", status_code=204)
async def delete_chat(here: Here, token: Token, chat: ChatNumber) -> Response:
    """Delete a chat that has no messages. Its number is not used again."""
    await here.call(lambda: here.core.catalog.delete_chat(token, chat))
    return Response(status_code=204)


def page(items: list[bodies.Body], more: bool) -> Response:
    """A part of a list; with what goes into `after` if there is more behind it."""
    return JSONResponse({"items": items, "next": items[-1]["number"] if more else None})
