"""What OpenAPI says beside the routes themselves: problems, headers, the operator's key."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from backend.api import problems
from backend.api.schemas import Pending, ProblemBody

_DESCRIPTIONS = {
    400: "The body is not JSON.",
    401: "The operator's token is missing or wrong.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "It contradicts what is there.",
    410: "The number was given, but its creation was rejected.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "A value is not valid.",
    429: "Too many applications were created from this address.",
    503: "A dependency is away, or refuses for now.",
}
_EXAMPLES = {
    problem.status: json.loads(problems.encode(problem))
    for problem in (
        *(problem for _, problem in reversed(problems.PROBLEMS_BY_ERROR)),
        *(problems.NOT_JSON, problems.NO_OPERATOR, problems.BODY_TOO_SLOW, problems.BODY_TOO_LARGE),
        *(
            problems.UNSUPPORTED_MEDIA_TYPE,
            problems.INVALID,
            problems.TOO_MANY_CREATIONS,
            problems.UNAVAILABLE,
        ),
    )
}
_BODY_STATUSES = (400, 408, 413, 415)
_RETRY_AFTER_HEADER = {
    "Retry-After": {"description": "seconds", "required": True, "schema": {"type": "integer"}}
}
_TOKEN = {"token": "$request.path.token"}
_CHAT = {**_TOKEN, "chat": "$request.path.chat"}
# What may follow a creation, with its number or token.
LINKS: dict[str, dict[str, dict[str, str]]] = {
    "create_application": {
        name: {"token": "$response.body#/token"}
        for name in ("show_application", "create_chat", "list_chats", "delete_application")
    },
    "create_chat": {
        name: {**_TOKEN, "chat": "$response.body#/number"}
        for name in (
            "show_chat",
            "create_message",
            "create_messages",
            "list_messages",
            "delete_chat",
        )
    },
    "create_message": {
        name: {**_CHAT, "number": "$response.body#/number"}
        for name in ("show_message", "edit_message", "delete_message")
    },
    "create_messages": {"show_message": {**_CHAT, "number": "$response.body#/last"}},
}
_ETAG_HEADER = {
    "ETag": {
        "description": "the version, for If-Match",
        "required": True,
        "schema": {"type": "string"},
    }
}

Responses = dict[int | str, dict[str, Any]]


def route_responses(
    *statuses: int,
    body: bool = False,
    etag: int | None = None,
    stored: type | None = None,
    pending: bool = False,
    cascading: bool = False,
) -> Responses:
    """The responses of a route: these problems, those of reading a `body`, and 422 and 503.

    `etag` is the status that comes with one, `stored` the shape of an answer to `?wait=`, and `pending`
    says that what is read may be on its way, `cascading` that a deletion may take more with it.
    """
    all_statuses = sorted({*statuses, *(_BODY_STATUSES if body else ()), 422, 503})
    responses: Responses = {status: _problem(status) for status in all_statuses}
    if etag:
        responses[etag] = {"headers": _ETAG_HEADER}
    if stored:
        responses[201] = {"model": stored, "description": "Stored"}
    if pending:
        responses[202] = {"model": Pending, "description": "Accepted, and not stored yet"}
    if cascading:
        responses[202] = {
            "description": "Gone with all that is in it; the rows are dropped afterwards"
        }
    return responses


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": _DESCRIPTIONS[status],
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _EXAMPLES[status],
            },
        },
    }
    if status in (429, 503):
        answer["headers"] = _RETRY_AFTER_HEADER
    return answer


def build_schema(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1, made once from the routes."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        document["components"]["schemas"]["Problem"] = ProblemBody.model_json_schema()
        for methods in document["paths"].values():
            for operation in methods.values():
                _add_links(operation)
                _drop_null_type(operation)
        app.openapi_schema = document
    return app.openapi_schema


def _add_links(operation: dict[str, Any]) -> None:
    links = {
        name: {"operationId": name, "parameters": parameters}
        for name, parameters in LINKS.get(operation["operationId"], {}).items()
    }
    for status, answer in operation["responses"].items():
        if links and status in ("201", "202"):
            answer["links"] = links


def _drop_null_type(operation: dict[str, Any]) -> None:
    """A parameter that need not be there is not one that may be null."""
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        if {"type": "null"} in schema.get("anyOf", []):
            some, _ = schema.pop("anyOf")
            schema |= some
