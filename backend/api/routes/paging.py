"""Pages of a list without a total."""

from fastapi import Response

from backend.api.conditional import read_response
from backend.domain.serialization import JsonObject


def page_response(
    items: list[JsonObject], limit: int, if_none_match: str | None, key: str
) -> Response:
    """The first `limit` of `items`; if there are more, `next` is the `key` of the last one shown."""
    return read_response(_page(items, limit, key), if_none_match)


def search_response(
    items: list[JsonObject], limit: int, if_none_match: str | None, incomplete: str | None
) -> Response:
    """As `page_response`, for the results of a search; `incomplete` says why some may be missing."""
    body = _page(items, limit, "number") | {"complete": incomplete is None}
    if incomplete is not None:
        body["why"] = incomplete
    return read_response(body, if_none_match)


def _page(items: list[JsonObject], limit: int, key: str) -> JsonObject:
    page = items[:limit]
    return {"items": page, "next": page[-1][key] if len(items) > limit else None}
