"""`/applications/{token}/chats/{chat}/messages`: the messages of a chat."""

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from backend import accept, bodies, model
from backend.api import shapes
from backend.api.chats import page
from backend.api.conditions import IfMatch, etag, version_of
from backend.api.service import Here
from backend.api.shapes import After, ChatNumber, Limit, MessageNumber, Token
from backend.catalog import Pending

router = APIRouter(prefix="/applications/{token}/chats/{chat}/messages", tags=["messages"])


@router.post("", status_code=202, response_model=shapes.Number)
async def create_message(
    here: Here, token: Token, chat: ChatNumber, body: shapes.MessageBody
) -> Response:
    """Create a message: its number at once, when it is in the log."""
    accepted = await here.accept(accept.messages(token, chat, [body.message.text]))
    return JSONResponse(bodies.number(accepted.first), 202)


@router.post("/batch", status_code=202, response_model=shapes.Numbers)
async def create_messages(
    here: Here, token: Token, chat: ChatNumber, body: shapes.MessagesBody
) -> Response:
    """Create 1 to 1,000 messages at once; they get consecutive numbers, in their order."""
    accepted = await here.accept(
        accept.messages(token, chat, [message.text for message in body.messages])
    )
    return JSONResponse(bodies.numbers(accepted.first, accepted.last), 202)


@router.get("", response_model=shapes.Page[shapes.Found] | shapes.Page[shapes.Message])
async def list_messages(
    here: Here,
    token: Token,
    chat: ChatNumber,
    limit: Limit = shapes.ITEMS,
    after: After = 0,
    keyword: Annotated[
        str | None,
        Query(description="only those whose text contains it; each then has `highlight`"),
    ] = None,
) -> Response:
    """A chat's messages by number; with a keyword those that contain it."""
    catalog = here.core.catalog
    if keyword is None:
        found = await here.call(
            lambda: list(catalog.messages(token, chat, after=after, limit=limit + 1))
        )
        return page([bodies.message(each) for each in islice(found, limit)], len(found) > limit)
    matches = await here.call(
        lambda: list(catalog.search(token, chat, keyword, after=after, limit=limit + 1))
    )
    return page([bodies.match(each) for each in islice(matches, limit)], len(matches) > limit)


@router.get("/{number}", response_model=shapes.Message, responses={202: {"model": shapes.Pending}})
async def show_message(
    here: Here, token: Token, chat: ChatNumber, number: MessageNumber
) -> Response:
    """A message; 202 while it is accepted and not stored yet."""
    found = await here.call(lambda: here.core.catalog.message(token, chat, number))
    if isinstance(found, Pending):
        return JSONResponse(bodies.pending(number), 202)
    return _answer(found)


@router.patch("/{number}", response_model=shapes.Message)
async def edit_message(
    here: Here,
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    body: shapes.MessageBody,
    if_match: IfMatch = None,
) -> Response:
    """Give a message another text."""
    version, text = version_of(if_match), body.message.text
    edited = await here.call(
        lambda: here.core.catalog.edit_message(token, chat, number, text, version=version)
    )
    return _answer(edited)


@router.delete("/{number}", status_code=204)
async def delete_message(
    here: Here, token: Token, chat: ChatNumber, number: MessageNumber, if_match: IfMatch = None
) -> Response:
    """Delete a message. Its number is not used again."""
    version = version_of(if_match)
    await here.call(lambda: here.core.catalog.delete_message(token, chat, number, version=version))
    return Response(status_code=204)


def _answer(found: model.Message) -> Response:
    return JSONResponse(bodies.message(found), headers={"ETag": etag(found.version)})
