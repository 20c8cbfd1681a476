"""`/applications/{token}/chats/{chat}/messages`: create one or many, list, search, show, edit, delete."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from backend.api import schemas
from backend.api.batch_body import BatchRoute
from backend.api.conditional import message_etag, parse_if_match, read_response
from backend.api.message_query import MessageQuery
from backend.api.openapi import route_responses
from backend.api.parameters import (
    PREFIX,
    ArrivedAt,
    ChatNumber,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    MessageNumber,
    Token,
    Wait,
)
from backend.api.request_body import JsonRoute
from backend.api.service import ServiceDep
from backend.catalog.waiting import PendingNumber
from backend.domain import serialization
from backend.ingest.requests import AcceptRequest
from backend.search.budget import SearchBudget

PATH = PREFIX + "/applications/{token}/chats/{chat}/messages"
router = APIRouter(prefix=PATH, tags=["messages"], route_class=JsonRoute)
batch_router = APIRouter(prefix=PATH, tags=["messages"], route_class=BatchRoute)


@router.post(
    "",
    status_code=202,
    response_model=schemas.Number,
    responses=route_responses(404, 409, 410, 429, body=True, stored=schemas.Number),
)
async def create_message(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    body: schemas.MessageBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
) -> Response:
    """Create a message and return its number at once, as soon as the message is in the log."""
    # Most requests do not reach this function: server/fast_path.py answers them.
    accepted = await service.accept(
        AcceptRequest.messages(token, chat, [body.message.new_message()], key=idempotency_key)
    )
    status = await service.creation_status(wait, token, chat, accepted)
    return JSONResponse(serialization.number(accepted.first), status)


@batch_router.post(
    "/batch",
    status_code=202,
    response_model=schemas.Numbers,
    responses=route_responses(404, 409, 410, 429, body=True, stored=schemas.Numbers),
)
async def create_messages(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    body: schemas.MessagesBody,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
) -> Response:
    """Create 1 to 1,000 messages at once. They get consecutive numbers in their order."""
    new_messages = [message.new_message() for message in body.messages]
    make = partial(
        AcceptRequest.messages, token, chat, new_messages, key=idempotency_key, route="batch"
    )
    # A thread hashes what belongs to a key: 40 MB take longer than the event loop should be busy.
    request = make() if idempotency_key is None else await asyncio.to_thread(make)
    accepted = await service.accept(request)
    status = await service.creation_status(wait, token, chat, accepted)
    return JSONResponse(serialization.numbers(accepted.first, accepted.last), status)


@router.get(
    "",
    response_model=schemas.SearchPage | schemas.CountedPage[schemas.Message],
    responses=route_responses(404, read=True),
)
async def list_messages(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    query: Annotated[MessageQuery, Query()],
    arrived_at: ArrivedAt,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """List a chat's messages, ordered by number; with `keyword`, only those that contain it.

    `total` is the live count of the chat's messages; a search has none. A search finds what is stored when it
    is asked. Otherwise `complete` is false, and `why` says what may be missing. A page of long messages, or
    of ones that contain the keyword very often, may end before `limit`, with a `next`.
    """
    messages, limit = service.catalog.messages, query.limit
    if query.keyword is None:

        def read() -> Response:
            page = serialization.message_page(query.read(messages, token, chat))
            return read_response(page, if_none_match)

        return await service.run(token, read)
    keyword = query.keyword

    def search(budget: SearchBudget) -> Response:
        """Search, and encode the page, which keeps a thread busy instead of the event loop."""
        matches = messages.search(
            token, chat, keyword, after=query.after, limit=limit + 1, budget=budget
        )
        found, incomplete = matches.read_all()
        items = [serialization.match(each) for each in found[:limit]]
        continues = len(found) > limit or matches.is_cut
        return read_response(serialization.match_page(items, continues, incomplete), if_none_match)

    return await service.run_search(token, search, arrived_at)


@router.get(
    "/{number}",
    response_model=schemas.Message,
    responses=route_responses(404, 410, read=True, pending=True),
)
async def show_message(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Show a message; 202 while it is accepted and not stored yet."""
    message = await service.run_read(
        token, lambda: service.catalog.messages.get(token, chat, number)
    )
    if isinstance(message, PendingNumber):
        return JSONResponse(serialization.pending(number), 202)
    return read_response(
        serialization.message(message), if_none_match, message_etag(message.version)
    )


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
    body: schemas.TextBody,
    if_match: IfMatch = None,
) -> Response:
    """Change a message."""
    versions, changes = parse_if_match(if_match), body.message.model_dump(exclude_unset=True)
    edited = await service.run_change(
        token,
        lambda: service.catalog.messages.edit(token, chat, number, changes, versions=versions),
    )
    return JSONResponse(
        serialization.message(edited), headers={"ETag": message_etag(edited.version)}
    )


@router.delete("/{number}", status_code=204, responses=route_responses(404, 409, 410))
async def delete_message(
    service: ServiceDep,
    token: Token,
    chat: ChatNumber,
    number: MessageNumber,
    if_match: IfMatch = None,
) -> Response:
    """Delete a message. Its number is never used again."""
    versions = parse_if_match(if_match)
    await service.run_change(
        token, lambda: service.catalog.messages.delete(token, chat, number, versions=versions)
    )
    return Response(status_code=204)
