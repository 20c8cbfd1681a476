"""Error responses, as RFC 9457 problems: the only place that maps errors to HTTP statuses.

To find out why a request was answered with an error: take the `type` and `detail` of the response, or the
request id and the server's log, which holds the message of each error behind a 5xx response. Each constant
below names the place that raises it. Errors of the core are mapped in PROBLEMS_BY_ERROR.

A problem never names an engine's address, a token, a text or a database id.
"""

import json
import logging
import math
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import HTTPException
from fastapi.responses import Response

from backend.domain import errors
from backend.domain.errors import InstaChatError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1  # the Retry-After of every 503
logger = logging.getLogger(__name__)
TYPE_PREFIX = "urn:problem-type:instachat:"


class Problem(NamedTuple):
    """One kind of problem. Where `detail` is None, the response shows the error's own message."""

    status: int
    name: str
    title: str
    detail: str | None = None


# 4xx: raised by the route (or by app.py's handlers), request_body.py, batch_body.py, server/connection.py.
NOT_JSON = Problem(400, "not-json", "Not JSON", "The body is not JSON in UTF-8.")
NOT_HTTP = Problem(
    400, "not-http", "Not HTTP", "The request is not HTTP/1.1, or has not exactly one Host."
)
NO_OPERATOR = Problem(
    401,
    "no-operator",
    "Operators only",
    "This route requires the operator's token: Authorization: Bearer.",
)
NO_TOKEN = Problem(
    401,
    "no-token",
    "No token",
    "This route requires the application's token: Authorization: Bearer.",
)
NOT_FOUND = Problem(404, "not-found", "Not found", "There is nothing here.")
METHOD_NOT_ALLOWED = Problem(
    405, "method-not-allowed", "Method not allowed", "See the header Allow."
)
BODY_TOO_SLOW = Problem(408, "too-slow", "Too slow", "The body did not arrive in time.")
HEADERS_TOO_SLOW = Problem(408, "too-slow", "Too slow", "The headers did not arrive in time.")
BODY_TOO_LARGE = Problem(413, "too-large", "Too large")
UNSUPPORTED_MEDIA_TYPE = Problem(
    415,
    "unsupported-media-type",
    "Unsupported media type",
    "Send the body as application/json, without a Content-Encoding.",
)
INVALID = Problem(422, "invalid", "Invalid")
TOO_MANY_CREATIONS = Problem(
    429, "too-many", "Too many", "This address has created too many applications."
)
HEADERS_TOO_LARGE = Problem(
    431, "headers-too-large", "Headers too large", "The headers must be smaller than 64 KiB."
)

# 500: an exception that no handler expects. The log has its type and place.
FAULT = Problem(
    500, "fault", "Fault", "The server failed. Its log describes the error under the request id."
)

# 501: raised by server/connection.py.
UNKNOWN_TRANSFER_CODING = Problem(
    501,
    "unknown-transfer-coding",
    "Unknown transfer coding",
    "The only transfer coding of this server is chunked.",
)

# 503, raised in this package.
# service.py, Service._run_in: MAX_CALLS; thread_shares.py; server/group_read.py: MAX_WAITING_READS
TOO_MANY_CALLS = Problem(
    503, "busy", "Busy", "Too many requests are being processed; nothing was changed."
)
TOO_MANY_STREAMS = Problem(  # service.py, Service.follow: MAX_STREAMS
    503, "busy", "Busy", "Too many streams are open; try again."
)
TOO_MANY_BODY_BYTES = Problem(  # request_body.py, BodyMemory.hold
    503, "busy", "Busy", "Too many large bodies are being processed; nothing was changed."
)
# service.py, Service._run_in, and server/group_read.py: the timeout of a call that has changed nothing
CALL_TIMED_OUT = Problem(
    503, "unavailable", "Unavailable", "A dependency did not respond in time; try again."
)
STOPPING = Problem(  # middleware.py: the server stopped before it had read what was asked
    503, "unavailable", "Unavailable", "The server is stopping; try again."
)

# 503, for an error of the core. Each but UNCONFIRMED says that nothing was changed.
TOO_MANY_WAITING = Problem(
    503, "busy", "Busy", "Too many creations are waiting; nothing was changed."
)
UNAVAILABLE = Problem(
    503, "unavailable", "Unavailable", "A dependency does not respond; try again."
)
OTHER_RELEASE = Problem(
    503, "unavailable", "Unavailable", "The server is being upgraded; try again."
)
FULL = Problem(
    503,
    "full",
    "Full",
    "Too much is waiting to be stored, or too many idempotency keys are kept; nothing was accepted.",
)
UNCONFIRMED = Problem(  # also middleware.py: the server stopped while it changed something
    503,
    "unconfirmed",
    "Not confirmed",
    "It is not known whether this was done. Read what it changes, or repeat it with its Idempotency-Key.",
)

# The first entry whose class matches decides, so subclasses come before their base classes.
PROBLEMS_BY_ERROR: tuple[tuple[type[InstaChatError], Problem], ...] = (
    (errors.Invalid, INVALID),
    (errors.Gone, Problem(410, "rejected", "Rejected")),
    (errors.NotFound, NOT_FOUND),
    # backend/ingest/accept.py
    (errors.Closing, Problem(503, "being-deleted", "Being deleted")),
    # backend/storage/redis/accept.py (the log's limit) and errors.py (Redis's memory)
    (errors.LogFull, FULL),
    # backend/storage/redis/errors.py and postgres/database.py (the reply was lost), catalog/deletion.py (no
    # decision in time), service.py and server/group_commit.py (a timeout)
    (errors.Unconfirmed, UNCONFIRMED),
    # backend/storage/: redis/errors.py, postgres/database.py, elasticsearch/client.py
    (errors.EngineDown, UNAVAILABLE),
    # backend/ingest/recognition.py
    (errors.WrongRedis, UNAVAILABLE),
    # server/group_commit.py: MAX_WAITING_REQUESTS
    (errors.Busy, TOO_MANY_WAITING),
    # backend/storage/postgres/: schema.py, database.py
    (errors.SchemaMismatch, OTHER_RELEASE),
    # backend/ingest/accept.py
    (errors.RateLimited, Problem(429, "rate-limited", "Rate limited")),
    # Any other temporary refusal; the response's detail is its message: search the code for that.
    (errors.Unavailable, Problem(503, "unavailable", "Unavailable")),
    (errors.HasChildren, Problem(409, "has-children", "Has children")),
    (errors.StaleVersion, Problem(409, "stale", "Changed meanwhile")),
    (errors.KeyReused, Problem(409, "key-reused", "Idempotency key reused")),
    # backend/ingest/accept.py
    (errors.NumbersExhausted, Problem(409, "numbers-exhausted", "Numbers exhausted")),
    (errors.Conflict, Problem(409, "conflict", "Conflict")),
)


class ProblemException(HTTPException):
    """A request that the HTTP layer itself refuses."""

    def __init__(self, problem: Problem, detail: str | None = None, **headers: str) -> None:
        super().__init__(problem.status, headers=headers)
        self.problem = problem
        self.problem_detail = detail


def from_error(error: InstaChatError) -> tuple[Problem, str]:
    """The problem for an error of the core, and its detail."""
    problem = next(
        (problem for kind, problem in PROBLEMS_BY_ERROR if isinstance(error, kind)), FAULT
    )
    return problem, problem.detail or f"{error.message[:1].upper()}{error.message[1:]}."


def error_response(error: InstaChatError, request_id: bytes) -> Response:
    """The response for an error of the core. Logs the message of those that the client did not cause."""
    problem, detail = from_error(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        level = logging.WARNING if isinstance(error, errors.Unavailable) else logging.ERROR
        logger.log(level, "%s", error.message, extra={"request_id": request_id.decode()})
    headers = rate_limit_headers(error) if isinstance(error, errors.RateLimited) else {}
    return response(problem, detail, **headers)


def rate_limit_headers(error: errors.RateLimited) -> dict[str, str]:
    """The headers that say which limit a request has met, and when to try again.

    Names and forms are those of the IETF's draft "RateLimit header fields for HTTP".
    """
    wait = str(math.ceil(error.wait_seconds))
    return {
        "RateLimit-Policy": f'"application";q={error.per_second};w=1',
        "RateLimit": f'"application";r=0;t={wait}',
        "Retry-After": wait,
    }


def response(problem: Problem, detail: str | None = None, **headers: str) -> Response:
    """The response for a problem."""
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    return Response(encode(problem, detail), problem.status, headers, MEDIA_TYPE)


def encode(problem: Problem, detail: str | None = None) -> bytes:
    """The body of the response for a problem."""
    members: dict[str, Any] = {
        "type": TYPE_PREFIX + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": detail or problem.detail or problem.title,
    }
    return json.dumps(members, ensure_ascii=False).encode("utf-8", "backslashreplace")
