"""Errors as RFC 9457 problems: the only place that maps the core's errors to HTTP statuses.

A problem never names an engine's address, a token, a text or a database id: what an operator needs is in
the log, under the same request id.
"""

import json
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi.responses import Response

from backend import errors
from backend.errors import InstaChatError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1  # what Retry-After says when something is away
TYPES = "urn:problem-type:instachat:"


class Problem(NamedTuple):
    """One kind of problem; `detail` of None is the error's own message."""

    status: int
    name: str
    title: str
    detail: str | None = None


NOT_FOUND = Problem(404, "not-found", "Not found", "There is nothing here.")
NOT_JSON = Problem(400, "not-json", "Not JSON", "The body is not JSON in UTF-8.")
INVALID = Problem(422, "invalid", "Invalid")
METHOD = Problem(
    405, "method-not-allowed", "Method not allowed", "This resource has other methods."
)
TOO_LARGE = Problem(413, "too-large", "Too large")
NOT_A_JSON_TYPE = Problem(
    415, "unsupported-media-type", "Unsupported media type", "Send it as application/json."
)
TOO_SLOW = Problem(408, "too-slow", "Too slow", "The body did not arrive in time.")
BUSY = Problem(
    503, "busy", "Too busy", "Too many requests wait at this moment; nothing was accepted."
)
FAULT = Problem(
    500, "fault", "Fault", "This is a fault of the server; its log says more under the request id."
)

KINDS: tuple[tuple[type[InstaChatError], Problem], ...] = (
    (errors.Invalid, INVALID),
    (errors.Gone, Problem(410, "rejected", "Rejected")),
    (errors.NotFound, NOT_FOUND),
    (errors.Closing, Problem(503, "being-deleted", "Being deleted")),
    (
        errors.LogFull,
        Problem(503, "full", "Full", "Too much waits to be stored; nothing was accepted."),
    ),
    (
        errors.Unconfirmed,
        Problem(
            503,
            "unconfirmed",
            "Not confirmed",
            "It is not known whether this was accepted. With an Idempotency-Key the same request can"
            " be repeated without harm.",
        ),
    ),
    (
        errors.EngineDown,
        Problem(503, "unavailable", "Unavailable", "A dependency does not answer; try again."),
    ),
    (errors.Unavailable, Problem(503, "unavailable", "Unavailable")),
    (errors.HasChildren, Problem(409, "has-children", "Has children")),
    (errors.StaleVersion, Problem(409, "stale", "Changed meanwhile")),
    (errors.KeyReused, Problem(409, "key-reused", "Idempotency key reused")),
    (errors.Conflict, Problem(409, "conflict", "Conflict")),
)


def of(error: InstaChatError) -> tuple[Problem, str]:
    """The problem that an error of the core is, and its detail."""
    problem = next((problem for kind, problem in KINDS if isinstance(error, kind)), FAULT)
    return problem, problem.detail or sentence(error.message)


def response(problem: Problem, detail: str | None = None, **headers: str) -> Response:
    """The answer that tells of a problem."""
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return Response(
        json.dumps(body(problem, detail), ensure_ascii=False),
        problem.status,
        headers,
        MEDIA_TYPE,
    )


def body(problem: Problem, detail: str | None = None) -> dict[str, Any]:
    """A problem's members."""
    return {
        "type": TYPES + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": detail or problem.detail or problem.title,
    }


def sentence(message: str) -> str:
    """A message of the core's as a sentence."""
    return f"{message[:1].upper()}{message[1:]}."
