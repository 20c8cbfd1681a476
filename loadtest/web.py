"""HTTP for creating fixtures, sampling and auditing.

The load itself uses Locust. It never repeats a request.
"""

import json
from typing import Any, NamedTuple
from urllib.parse import quote

import urllib3

from loadtest.errors import Unreachable, Unusable

TIMEOUT = urllib3.Timeout(connect=5, read=20)
NO_ANSWER = 0


class ApiAnswer(NamedTuple):
    """The status of an answer, or NO_ANSWER, its JSON and its ETag."""

    status: int
    body: Any
    tag: str | None = None


class ApiClient:
    """A client of one server, for use by several threads."""

    def __init__(self, host: str, connections: int = 16) -> None:
        self.host = host.rstrip("/")
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False, timeout=TIMEOUT)

    def request(
        self, method: str, path: str, body: Any = None, *, unless: str | None = None
    ) -> ApiAnswer:
        """Send one request to a path under `/api/v1`; `unless` is the ETag for `If-None-Match`.

        Never raises; without an answer the status is NO_ANSWER.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        if unless:
            headers["If-None-Match"] = unless
        try:
            response = self._pool.request(
                method, f"{self.host}/api/v1{path}", body=data, headers=headers, redirect=False
            )
            answer = json.loads(response.data) if response.data else None
            return ApiAnswer(response.status, answer, response.headers.get("ETag"))
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return ApiAnswer(NO_ANSWER, None)

    def check_reachable(self) -> None:
        """Raises Unreachable unless the server answers; any status counts as an answer."""
        try:
            self._pool.request("GET", f"{self.host}/healthz", redirect=False)
        except (urllib3.exceptions.HTTPError, OSError):
            raise Unreachable(f"{self.host} does not answer") from None

    def request_ok(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request; returns the JSON of a 2xx answer. Raises Unreachable or Unusable otherwise."""
        answer = self.request(method, path, body)
        if answer.status == NO_ANSWER:
            raise Unreachable(f"{self.host} does not answer")
        if not 200 <= answer.status < 300:
            raise Unusable(f"{self.host} answers {answer.status} to {method} {_redacted(path)}")
        return answer.body


def messages_path(token: str, chat: int, number: int | None = None, **query: object) -> str:
    """The path of a chat's messages, or of one of them."""
    path = f"/applications/{token}/chats/{chat}/messages"
    if number is not None:
        path += f"/{number}"
    if query:
        path += "?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    return path


def _redacted(path: str) -> str:
    """The path without its token."""
    parts = path.split("/")
    return "/".join([*parts[:2], "{token}", *parts[3:]]) if len(parts) > 2 else path
