"""HTTP for creating fixtures, sampling and auditing.

The load itself uses Locust. It never repeats a request.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3

from loadtest.adapter.adapter import PAGING, ServerAdapter
from loadtest.adapter.answers import NO_ANSWER, ApiAnswer, ListedItem
from loadtest.adapter.endpoint import Endpoint
from loadtest.adapter.operations import Operation
from loadtest.errors import Unreachable, Unusable

TIMEOUT = urllib3.Timeout(connect=5, read=20)
PAGE_SIZE = 200
NOT_FOUND = 404


class ApiClient:
    """A client of one server, for use by several threads."""

    def __init__(self, host: str, adapter: ServerAdapter, connections: int = 16) -> None:
        self.host, self.adapter = host.rstrip("/"), adapter
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False, timeout=TIMEOUT)

    def request(
        self, operation: Operation, values: Mapping[str, object], *, unless: str | None = None
    ) -> ApiAnswer:
        """Send one request with the values of its placeholders; `unless` is the ETag for `If-None-Match`.

        Never raises for what the server does; without an answer the status is NO_ANSWER.
        """
        method, path, headers, data = self.adapter.endpoint(operation).prepare(values)
        if unless:
            headers["If-None-Match"] = unless
        try:
            response = self._pool.request(
                method, self.host + path, body=data, headers=headers, redirect=False
            )
            answer = json.loads(response.data) if response.data else None
            return ApiAnswer(response.status, answer, response.headers)
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return ApiAnswer(NO_ANSWER, None)

    def check_reachable(self) -> None:
        """Raises Unreachable unless the server answers; any status counts as an answer."""
        try:
            self._pool.request("GET", f"{self.host}/", redirect=False)
        except (urllib3.exceptions.HTTPError, OSError):
            raise Unreachable(f"{self.host} does not answer") from None

    def request_done(self, operation: Operation, **values: object) -> ApiAnswer:
        """Send one request; returns the answer that says that it was done.

        Raises Unreachable or Unusable for any other answer.
        """
        endpoint, answer = self.adapter.endpoint(operation), self.request(operation, values)
        if answer.status == NO_ANSWER:
            raise Unreachable(f"{self.host} does not answer")
        if answer.status not in endpoint.status:
            raise Unusable(f"{self.host} answers {answer.status} to {endpoint.request}")
        return answer

    def list_all(
        self, operation: Operation, may_retry: Callable[[ApiAnswer], bool], **values: object
    ) -> Iterator[ListedItem]:
        """Everything that a server lists, ordered by number; nothing if it answers 404.

        After any other answer than a page, the same page is requested again if `may_retry` allows it;
        otherwise the list ends. A server whose pages begin after a number is expected to list by number;
        what others list is sorted in memory. Raises Unusable if it repeats a page, or for an answer without
        the values that the adapter names.
        """
        endpoint = self.adapter.endpoint(operation)
        pages = self._pages(endpoint, may_retry, values)
        if "after" in endpoint.path.names:
            for page in pages:
                yield from page
        else:
            yield from sorted(item for page in pages for item in page)

    def _pages(
        self,
        endpoint: Endpoint,
        may_retry: Callable[[ApiAnswer], bool],
        values: dict[str, object],
    ) -> Iterator[list[ListedItem]]:
        before: list[ListedItem] = []
        after: Any = 0
        page, listed = 1, 0
        while True:
            place = {"limit": PAGE_SIZE, "after": after, "page": page, "offset": listed}
            answer = self.request(endpoint.operation, {**values, **place})
            if answer.status == NOT_FOUND:
                return
            if answer.status not in endpoint.status:
                if not may_retry(answer):
                    return
                continue
            items = endpoint.items(answer)
            if items and items == before:
                raise Unusable(f"{self.host} returns the same page repeatedly")
            yield items
            if endpoint.path.names.isdisjoint(PAGING):
                return
            following = endpoint.next(answer) if endpoint.says_next else True
            if not following or not items:
                return
            if following is True:
                following = items[-1].number
            if "after" in endpoint.path.names and following == after:
                raise Unusable(f"{self.host} returns the same page repeatedly")
            before, after, page, listed = items, following, page + 1, listed + len(items)
