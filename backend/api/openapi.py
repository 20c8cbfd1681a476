"""What OpenAPI says beside the routes themselves: problems, headers, the operator's key."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from backend.api import problems
from backend.api.schemas import Pending, ProblemBody

_SAID = {
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
    problem.status: json.loads(problems.encoded(problem))
    for problem in (
        *(problem for _, problem in reversed(problems.KINDS)),
        *(problems.NOT_JSON, problems.NO_OPERATOR, problems.TOO_SLOW, problems.TOO_LARGE),
        *(problems.NOT_JSON_TYPE, problems.INVALID, problems.TOO_MANY, problems.AWAY),
    )
}
_WITH_BODY = (400, 408, 413, 415)
_RETRY = {
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
_ETAG = {
    "ETag": {
        "description": "the version, for If-Match",
        "required": True,
        "schema": {"type": "string"},
    }
}

Responses = dict[int | str, dict[str, Any]]


def answers(
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
    wanted = sorted({*statuses, *(_WITH_BODY if body else ()), 422, 503})
    found: Responses = {status: _problem(status) for status in wanted}
    if etag:
        found[etag] = {"headers": _ETAG}
    if stored:
        found[201] = {"model": stored, "description": "Stored"}
    if pending:
        found[202] = {"model": Pending, "description": "Accepted, and not stored yet"}
    if cascading:
        found[202] = {"description": "Gone with all that is in it; the rows are dropped afterwards"}
    return found


def _problem(status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": _SAID[status],
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _EXAMPLES[status],
            },
        },
    }
    if status in (429, 503):
        answer["headers"] = _RETRY
    return answer


def schema(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1, made once from the routes."""
    if not app.openapi_schema:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        made["components"]["schemas"]["Problem"] = ProblemBody.model_json_schema()
        for methods in made["paths"].values():
            for operation in methods.values():
                _link(operation)
                _say_optional(operation)
        app.openapi_schema = made
    return app.openapi_schema


def _link(operation: dict[str, Any]) -> None:
    links = {
        name: {"operationId": name, "parameters": parameters}
        for name, parameters in LINKS.get(operation["operationId"], {}).items()
    }
    for status, answer in operation["responses"].items():
        if links and status in ("201", "202"):
            answer["links"] = links


def _say_optional(operation: dict[str, Any]) -> None:
    """A parameter that need not be there is not one that may be null."""
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        if {"type": "null"} in schema.get("anyOf", []):
            some, _ = schema.pop("anyOf")
            schema |= some
