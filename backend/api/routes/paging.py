"""Pages of a list."""

from fastapi import Response
from fastapi.responses import JSONResponse

from backend.domain.serialization import JsonObject


def page_response(items: list[JsonObject], limit: int, key: str = "number") -> Response:
    """The first `limit` of `items`; if there are more, `next` is the `key` of the last one shown."""
    page = items[:limit]
    return JSONResponse({"items": page, "next": page[-1][key] if len(items) > limit else None})
