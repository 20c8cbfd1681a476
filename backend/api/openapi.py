"""What the OpenAPI document says beside the routes: problems, headers, and links between operations."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from backend.api import problems, schemas

_DESCRIPTIONS = {
    400: "The body is not JSON.",
    401: "The operator's token is missing or wrong.",
    404: "There is no such application, chat or message.",
    408: "The body did not arrive in time.",
    409: "The request conflicts with the current state.",
    410: "The number was assigned, but its creation was rejected.",
    413: "The body is too large.",
    415: "The body's type is not JSON.",
    422: "A value is not valid.",
    429: "This address has created too many applications, or the application too many chats and messages.",
    503: "A dependency does not respond, or the server refuses for now; try again.",
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
# The operations that can follow a creation, with its token or number.
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
        "description": "names this state, to pass as If-None-Match, or as If-Match where there is one",
        "required": True,
        "schema": {"type": "string"},
    }
}

Responses = dict[int | str, dict[str, Any]]


def route_responses(
    *statuses: int,
    body: bool = False,
    read: bool = False,
    etag: int | None = None,
    stored: type | None = None,
    pending: bool = False,
    cascading: bool = False,
) -> Responses:
    """The responses of a route beside its success: these `statuses`, and 422 and 503.

    `body` adds the problems of reading one. `read` adds the 304 of a GET, and its ETag. `etag` is the status
    of any other response with an ETag. `stored` is the model of the 201 to `?wait=`. `pending` adds the 202
    of reading what is not stored yet, `cascading` the 202 of a deletion with `?cascade=`.
    """
    all_statuses = sorted({*statuses, *(_BODY_STATUSES if body else ()), 422, 503})
    responses: Responses = {status: _problem(status) for status in all_statuses}
    if etag:
        responses[etag] = {"headers": _ETAG_HEADER}
    if read:
        responses[200] = {"headers": _ETAG_HEADER}
        responses[304] = {"headers": _ETAG_HEADER, "description": "Not modified"}
    if stored:
        responses[201] = {"model": stored, "description": "Stored"}
    if pending:
        responses[202] = {"model": schemas.Pending, "description": "Accepted and not stored yet"}
    if cascading:
        responses[202] = {
            "description": "Deleted with everything inside; the rows are removed afterwards"
        }
    return responses


def _problem(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _DESCRIPTIONS[status],
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _EXAMPLES[status],
            },
        },
    }
    if status in (429, 503):
        response["headers"] = _RETRY_AFTER_HEADER
    return response


def build_schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document, built once from the routes."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        document["components"]["schemas"]["Problem"] = schemas.ProblemBody.model_json_schema()
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
    for status, response in operation["responses"].items():
        if links and status in ("201", "202"):
            response["links"] = links


def _drop_null_type(operation: dict[str, Any]) -> None:
    """An optional parameter may be absent; it is never null."""
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        if {"type": "null"} in schema.get("anyOf", []):
            some, _ = schema.pop("anyOf")
            schema |= some
