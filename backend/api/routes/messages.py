"""`/applications/{token}/chats/{chat}/messages`: the messages of a chat."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.openapi import answers
from backend.api.parameters import IdempotencyKey, IfMatch, Wait, etag, version_of
from backend.api.request_body import BatchRoute, JsonRoute
from backend.api.routes.chats import page
from backend.api.schemas import PREFIX, After, ChatNumber, Keyword, Limit, MessageNumber, Token
from backend.api.service import Here
from backend.catalog.catalog import Pending
from backend.domain import model, serialization
from backend.ingest import accept

PATH = PREFIX + "/applications/{token}/chats/{chat}/messages"
router = APIRouter(prefix=PATH, tags=["messages"], route_class=JsonRoute)
batches = APIRouter(prefix=PATH, tags=["messages"], route_class=BatchRoute)


@router.post(
    "",
    status_code=202,
    response_model=schemas.Number,
    responses=answers(404, 409, 410, body=True, stored=schemas.Number),
)
async def create_message(
    here: Here,
    token: Token,
    chat: ChatNumber,
    body: schemas.MessageBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
) -> Response:
    """Create a message: its number at once, as soon as it is in the log."""
    # What is usual does not come here: see `fast`.
    accepted = await here.accept(
        accept.messages(token, chat, [body.message.text], key=idempotency_key)
    )
    stored = wait is not None and await here.is_so(wait, token, chat, accepted)
    return JSONResponse(serialization.number(accepted.first), 201 if stored else 202)


@batches.post(
    "/batch",
    status_code=202,
    response_model=schemas.Numbers,
    responses=answers(404, 409, 410, body=True, stored=schemas.Numbers),
)
async def create_messages(
    here: Here,
    token: Token,
    chat: ChatNumber,
    body: schemas.MessagesBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
) -> Response:
    """Create 1 to 1,000 messages at once; they get consecutive numbers, in their order."""
    texts = [message.text for message in body.messages]
    accepted = await here.accept(
        accept.messages(token, chat, texts, key=idempotency_key, route="batch")
    )
    stored = wait is not None and await here.is_so(wait, token, chat, accepted)
    return JSONResponse(
        serialization.numbers(accepted.first, accepted.last), 201 if stored else 202
    )


@router.get(
    "",
    response_model=schemas.Page[schemas.Found] | schemas.Page[schemas.Message],
    responses=answers(404),
)
async def list_messages(
    here: Here,
    token: Token,
    chat: ChatNumber,
    limit: Limit = schemas.ITEMS,
    after: After = 0,
    keyword: Keyword = None,
) -> Response:
    """A chat's messages by number; with a keyword those that contain it."""
    if keyword is None:
        found = await here.call(
            lambda: list(here.catalog.messages(token, chat, after=after, limit=limit + 1))
        )
        return page([serialization.message(each) for each in found[:limit]], len(found) > limit)
    matches = await here.search(
        lambda: list(here.catalog.search(token, chat, keyword, after=after, limit=limit + 1))
    )
    return page([serialization.match(each) for each in matches[:limit]], len(matches) > limit)


@router.get(
    "/{number}",
    response_model=schemas.Message,
    responses=answers(404, 410, etag=200, pending=True),
)
async def show_message(
    here: Here, token: Token, chat: ChatNumber, number: MessageNumber
) -> Response:
    """A message; 202 while it is accepted and not stored yet."""
    found = await here.read(lambda: here.catalog.message(token, chat, number))
    if isinstance(found, Pending):
        return JSONResponse(serialization.pending(number), 202)
    return _answer(found)


@router.patch(
    "/{number}",
    response_model=schemas.Message,
    responses=answers(404, 409, 410, body=True, etag=200),
)
async def edit_message(
    here: Here,
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    body: schemas.MessageBody,
    if_match: IfMatch = None,
) -> Response:
    """Give a message another text."""
    version, text = version_of(if_match), body.message.text
    edited = await here.change(
        lambda: here.catalog.edit_message(token, chat, number, text, version=version)
    )
    return _answer(edited)


@router.delete("/{number}", status_code=204, responses=answers(404, 409, 410))
async def delete_message(
    here: Here, token: Token, chat: ChatNumber, number: MessageNumber, if_match: IfMatch = None
) -> Response:
    """Delete a message. Its number is not used again."""
    version = version_of(if_match)
    await here.change(lambda: here.catalog.delete_message(token, chat, number, version=version))
    return Response(status_code=204)


def _answer(found: model.Message) -> Response:
    return JSONResponse(serialization.message(found), headers={"ETag": etag(found.version)})
