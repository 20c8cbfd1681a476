"""Errors as RFC 9457 problems: the only place that maps what went wrong to HTTP statuses.

A problem never names an engine's address, a token, a text or a database id: what an operator needs is in
the log, under the same request id.
"""

import json
import logging
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import HTTPException
from fastapi.responses import Response

from backend.domain import errors
from backend.domain.errors import InstaChatError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1  # what Retry-After says when something is away
logger = logging.getLogger(__name__)
TYPE_PREFIX = "urn:problem-type:instachat:"


class Problem(NamedTuple):
    """One kind of problem; `detail` of None is the error's own message."""

    status: int
    name: str
    title: str
    detail: str | None = None


NOT_JSON = Problem(400, "not-json", "Not JSON", "The body is not JSON in UTF-8.")
NOT_HTTP = Problem(400, "not-http", "Not HTTP", "What was sent is not a request of HTTP/1.1.")
NO_OPERATOR = Problem(
    401, "no-operator", "Operators only", "This needs the operator's token: Authorization: Bearer."
)
NOT_FOUND = Problem(404, "not-found", "Not found", "There is nothing here.")
METHOD_NOT_ALLOWED = Problem(
    405, "method-not-allowed", "Method not allowed", "See the header Allow."
)
BODY_TOO_SLOW = Problem(408, "too-slow", "Too slow", "The body did not arrive in time.")
HEADERS_TOO_SLOW = Problem(408, "too-slow", "Too slow", "The headers did not arrive in time.")
BODY_TOO_LARGE = Problem(413, "too-large", "Too large")
UNSUPPORTED_MEDIA_TYPE = Problem(
    415, "unsupported-media-type", "Unsupported media type", "A body is sent as application/json."
)
INVALID = Problem(422, "invalid", "Invalid")
TOO_MANY_CREATIONS = Problem(
    429, "too-many", "Too many", "Too many applications were created from this address."
)
HEADERS_TOO_LARGE = Problem(
    431, "headers-too-large", "Headers too large", "Less than 64 KiB of headers are taken."
)
FAULT = Problem(
    500, "fault", "Fault", "This is a fault of the server; its log says more under the request id."
)
BUSY = Problem(503, "busy", "Busy", "Too much is asked at this moment; nothing was changed.")
UNAVAILABLE = Problem(503, "unavailable", "Unavailable", "A dependency does not answer; try again.")
FULL = Problem(503, "full", "Full", "Too much waits to be stored; nothing was accepted.")
UNCONFIRMED = Problem(
    503,
    "unconfirmed",
    "Not confirmed",
    "It is not known whether this was accepted. With an Idempotency-Key it can be repeated.",
)

PROBLEMS_BY_ERROR: tuple[tuple[type[InstaChatError], Problem], ...] = (
    (errors.Invalid, INVALID),
    (errors.Gone, Problem(410, "rejected", "Rejected")),
    (errors.NotFound, NOT_FOUND),
    (errors.Closing, Problem(503, "being-deleted", "Being deleted")),
    (errors.LogFull, FULL),
    (errors.Unconfirmed, UNCONFIRMED),
    (errors.EngineDown, UNAVAILABLE),
    (errors.Busy, BUSY),
    (errors.Unavailable, Problem(503, "unavailable", "Unavailable")),
    (errors.HasChildren, Problem(409, "has-children", "Has children")),
    (errors.StaleVersion, Problem(409, "stale", "Changed meanwhile")),
    (errors.KeyReused, Problem(409, "key-reused", "Idempotency key reused")),
    (errors.Conflict, Problem(409, "conflict", "Conflict")),
)


class ProblemException(HTTPException):
    """A request that is refused at the edge."""

    def __init__(self, problem: Problem, detail: str | None = None, **headers: str) -> None:
        super().__init__(problem.status, headers=headers)
        self.problem = problem
        self.problem_detail = detail


def from_error(error: InstaChatError) -> tuple[Problem, str]:
    """The problem that an error of the core is, and its detail."""
    problem = next(
        (problem for kind, problem in PROBLEMS_BY_ERROR if isinstance(error, kind)), FAULT
    )
    return problem, problem.detail or f"{error.message[:1].upper()}{error.message[1:]}."


def error_response(error: InstaChatError, request_id: bytes) -> Response:
    """The answer to an error of the core; the log has more of those that are not the client's."""
    problem, detail = from_error(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        level = logging.WARNING if isinstance(error, errors.Unavailable) else logging.ERROR
        logger.log(level, "%s", error.message, extra={"request_id": request_id.decode()})
    return response(problem, detail)


def response(problem: Problem, detail: str | None = None, **headers: str) -> Response:
    """The answer that tells of a problem."""
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return Response(encode(problem, detail), problem.status, headers, MEDIA_TYPE)


def encode(problem: Problem, detail: str | None = None) -> bytes:
    """A problem's body."""
    members: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": detail or problem.detail or problem.title,
    }
    return json.dumps(members, ensure_ascii=False).encode("utf-8", "backslashreplace")
