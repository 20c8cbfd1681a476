"""`/applications/{token}/chats/{chat}/messages`: the messages of a chat."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.openapi import route_responses
from backend.api.parameters import IdempotencyKey, IfMatch, Wait, etag, parse_if_match
from backend.api.request_body import BatchRoute, JsonRoute
from backend.api.routes.chats import page_response
from backend.api.schemas import PREFIX, After, ChatNumber, Keyword, Limit, MessageNumber, Token
from backend.api.service import ServiceDep
from backend.catalog.catalog import PendingNumber
from backend.domain import model, serialization
from backend.ingest.requests import AcceptRequest

PATH = PREFIX + "/applications/{token}/chats/{chat}/messages"
router = APIRouter(prefix=PATH, tags=["messages"], route_class=JsonRoute)
batch_router = APIRouter(prefix=PATH, tags=["messages"], route_class=BatchRoute)


@router.post(
    "",
    status_code=202,
    response_model=schemas.Number,
    responses=route_responses(404, 409, 410, body=True, stored=schemas.Number),
)
async def create_message(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    body: schemas.MessageBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
) -> Response:
    """Create a message: its number at once, as soon as it is in the log."""
    # What is usual does not come here: see `fast`.
    accepted = await service.accept(
        AcceptRequest.messages(token, chat, [body.message.text], key=idempotency_key)
    )
    stored = wait is not None and await service.wait_until(wait, token, chat, accepted)
    return JSONResponse(serialization.number(accepted.first), 201 if stored else 202)


@batch_router.post(
    "/batch",
    status_code=202,
    response_model=schemas.Numbers,
    responses=route_responses(404, 409, 410, body=True, stored=schemas.Numbers),
)
async def create_messages(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    body: schemas.MessagesBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
) -> Response:
    """Create 1 to 1,000 messages at once; they get consecutive numbers, in their order."""
    texts = [message.text for message in body.messages]
    accepted = await service.accept(
        AcceptRequest.messages(token, chat, texts, key=idempotency_key, route="batch")
    )
    stored = wait is not None and await service.wait_until(wait, token, chat, accepted)
    return JSONResponse(
        serialization.numbers(accepted.first, accepted.last), 201 if stored else 202
    )


@router.get(
    "",
    response_model=schemas.Page[schemas.Found] | schemas.Page[schemas.Message],
    responses=route_responses(404),
)
async def list_messages(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    limit: Limit = schemas.DEFAULT_PAGE_SIZE,
    after: After = 0,
    keyword: Keyword = None,
) -> Response:
    """A chat's messages by number; with a keyword those that contain it."""
    if keyword is None:
        found = await service.run(
            lambda: list(service.catalog.messages(token, chat, after=after, limit=limit + 1))
        )
        return page_response(
            [serialization.message(each) for each in found[:limit]], len(found) > limit
        )
    matches = await service.run_search(
        lambda: list(service.catalog.search(token, chat, keyword, after=after, limit=limit + 1))
    )
    return page_response(
        [serialization.match(each) for each in matches[:limit]], len(matches) > limit
    )


@router.get(
    "/{number}",
    response_model=schemas.Message,
    responses=route_responses(404, 410, etag=200, pending=True),
)
async def show_message(
    service: ServiceDep, token: Token, chat: ChatNumber, number: MessageNumber
) -> Response:
    """A message; 202 while it is accepted and not stored yet."""
    found = await service.run_read(lambda: service.catalog.message(token, chat, number))
    if isinstance(found, PendingNumber):
        return JSONResponse(serialization.pending(number), 202)
    return _message_response(found)


@router.patch(
    "/{number}",
    response_model=schemas.Message,
    responses=route_responses(404, 409, 410, body=True, etag=200),
)
async def edit_message(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    body: schemas.MessageBody,
    if_match: IfMatch = None,
) -> Response:
    """Give a message another text."""
    version, text = parse_if_match(if_match), body.message.text
    edited = await service.run_change(
        lambda: service.catalog.edit_message(token, chat, number, text, version=version)
    )
    return _message_response(edited)


@router.delete("/{number}", status_code=204, responses=route_responses(404, 409, 410))
async def delete_message(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    if_match: IfMatch = None,
) -> Response:
    """Delete a message. Its number is not used again."""
    version = parse_if_match(if_match)
    await service.run_change(
        lambda: service.catalog.delete_message(token, chat, number, version=version)
    )
    return Response(status_code=204)


def _message_response(found: model.Message) -> Response:
    return JSONResponse(serialization.message(found), headers={"ETag": etag(found.version)})
