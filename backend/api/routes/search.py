"""`/applications/{token}/messages`: search all chats of an application."""

from fastapi import APIRouter, Response

from backend.api import schemas
from backend.api.conditional import read_response
from backend.api.cursor import make_cursor, parse_cursor
from backend.api.openapi import route_responses
from backend.api.parameters import (
    DEFAULT_PAGE_SIZE,
    PREFIX,
    ArrivedAt,
    Cursor,
    IfNoneMatch,
    Limit,
    RequiredKeyword,
    Token,
)
from backend.api.service import ServiceDep
from backend.domain import serialization
from backend.search.budget import SearchBudget

router = APIRouter(prefix=PREFIX + "/applications/{token}/messages", tags=["messages"])


@router.get(
    "",
    response_model=schemas.ApplicationSearchPage,
    responses=route_responses(404, read=True),
)
async def search_application(
    service: ServiceDep,
    token: Token,
    keyword: RequiredKeyword,
    arrived_at: ArrivedAt,
    limit: Limit = DEFAULT_PAGE_SIZE,
    cursor: Cursor = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """List the messages of all chats of an application that contain a keyword, newest first.

    They are ordered by `created_at`, chat and number, descending. A search finds what is stored when it is
    asked. Otherwise `complete` is false, and `why` says what may be missing. Its work is bounded: a page may
    end before `limit`, or have no items, with a `next`.
    """
    messages = service.catalog.messages
    before = None if cursor is None else parse_cursor(cursor)

    def search(budget: SearchBudget) -> Response:
        """Search, and encode the page, which keeps a thread busy instead of the event loop."""
        page = messages.search_application(
            token, keyword, before=before, limit=limit, budget=budget
        )
        items = [serialization.application_match(each) for each in page.matches]
        next_ = None if page.next is None else make_cursor(page.next)
        body = serialization.search_page(items, next_, page.incomplete)
        return read_response(body, if_none_match)

    return await service.run_search(token, search, arrived_at)
