"""Pages of a list without a total."""

from fastapi import Response

from backend.api.conditional import read_response
from backend.domain.serialization import JsonObject


def page_response(
    items: list[JsonObject], limit: int, if_none_match: str | None, key: str
) -> Response:
    """The first `limit` of `items`; if there are more, `next` is the `key` of the last one shown."""
    page = items[:limit]
    body = {"items": page, "next": page[-1][key] if len(items) > limit else None}
    return read_response(body, if_none_match)
