"""Requests to a cluster of several nodes: what a node does not answer is sent to another one.

Every request of this program may be sent twice: searches and refreshes change nothing, a document is
written with its version, and creating, deleting and naming an index twice ends in the same state. So a
request is repeated even if the node may have done its work before it went away.

Imported with Elasticsearch's library, which takes 0.3 seconds.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from elastic_transport import (
    BaseNode,
    ConnectionTimeout,
    NodeConfig,
    NodePool,
    Transport,
    TransportApiResponse,
    TransportError,
)
from elastic_transport import ConnectionError as NoConnection
from urllib3 import Timeout
from urllib3.exceptions import ReadTimeoutError

MAX_ATTEMPTS = 3  # of a request, each at another node while there are others
UNABLE_STATUSES = (502, 503, 504)  # a node that serves nothing now, or a proxy without a node
MIN_PAUSE_SECONDS = 1.0  # for which a node that failed is not used; doubled with each failure
MAX_PAUSE_SECONDS = 10.0


@dataclass(slots=True)
class _Failure:
    """The state of a node that has failed; times are on the monotonic clock."""

    count: int
    tried_at: float
    paused_until: float
    probed: bool = False
    """Whether a request tries it at the moment."""


class FailoverPool(NodePool):
    """Chooses the node of each request: the working ones in turn. Thread-safe.

    When the pause of a node that failed is over, one request tries it. So a node that hangs delays one
    request at a time. While no node works, they are tried in turn.
    """

    def __init__(
        self, node_configs: list[NodeConfig], node_class: type[BaseNode], **options: Any
    ) -> None:
        super().__init__(node_configs, node_class, **options)
        self._nodes: Sequence[BaseNode] = self.all()
        self._by_config = {node.config: node for node in self._nodes}
        self._working: Sequence[BaseNode] = self._nodes
        self._failures: dict[BaseNode, _Failure] = {}
        self._turn = random.randrange(len(self._nodes))
        self._lock = threading.Lock()

    def get(self) -> BaseNode:
        """The node for the next request."""
        with self._lock:
            if self._failures:
                node, failure = min(self._failures.items(), key=lambda entry: entry[1].paused_until)
                now = time.monotonic()
                if not self._working:
                    node, failure = min(self._failures.items(), key=lambda entry: entry[1].tried_at)
                elif failure.paused_until > now:
                    return self._next_working()
                failure.tried_at, failure.probed = now, True
                # Others leave it alone meanwhile, also if nothing is heard of this request any more.
                failure.paused_until = max(failure.paused_until, now + MIN_PAUSE_SECONDS)
                return node
            return self._next_working()

    def _next_working(self) -> BaseNode:
        self._turn += 1
        return self._working[self._turn % len(self._working)]

    def mark_dead(self, node: BaseNode, _now: float | None = None) -> None:
        """Pause a node that gave no answer, or an answer that a working node does not give."""
        with self._lock:
            now = time.monotonic()
            failure = self._failures.get(node)
            if failure is None:
                failure = self._failures[node] = _Failure(0, now, now)
                self._working = [one for one in self._nodes if one not in self._failures]
            elif not failure.probed:
                return  # requests that were under way together fail together, and count once
            failure.count += 1
            failure.probed = False
            pause = MIN_PAUSE_SECONDS * 2 ** min(failure.count - 1, 10)
            failure.paused_until = now + min(pause, MAX_PAUSE_SECONDS)

    def mark_answered(self, config: NodeConfig) -> None:
        """The node of this configuration has answered, whatever its answer is."""
        self.mark_live(self._by_config[config])

    def mark_live(self, node: BaseNode) -> None:
        """The node has answered."""
        if node in self._failures:
            with self._lock:
                self._failures.pop(node, None)
                self._working = [one for one in self._nodes if one not in self._failures]


class FailoverTransport(Transport):
    """Sends each request to one node after another, until one answers or its time is over.

    A request that has a number of seconds shares them: each attempt gets half of what is left, the last one
    all of it. A request with a `Timeout` has that for each attempt, and is not repeated after its answer
    took too long: the node may be at work on it.
    """

    node_pool: FailoverPool

    def perform_request(  # type: ignore[override]  # the library passes these by name
        self, method: str, target: str, *, request_timeout: Any, **options: Any
    ) -> TransportApiResponse:
        """See the library's Transport. Raises as it does, for the last attempt."""
        options["max_retries"] = 0
        deadline = None
        if not isinstance(request_timeout, Timeout):
            deadline = time.monotonic() + request_timeout
        unable: TransportApiResponse | None = None
        for others in reversed(range(min(MAX_ATTEMPTS, len(self.node_pool)))):
            if deadline is not None:
                left = max(deadline - time.monotonic(), 0.001)
                request_timeout = left / 2 if others else left
            try:
                response = super().perform_request(
                    method, target, request_timeout=request_timeout, **options
                )
            except (NoConnection, ConnectionTimeout) as error:
                if unable is not None and not others:
                    return unable  # it says more
                if not others or (deadline is None and _was_sent(error)):
                    raise
                continue
            if response.meta.status not in UNABLE_STATUSES:
                self.node_pool.mark_answered(response.meta.node)
                return response
            unable = response
        assert unable is not None
        return unable


def _was_sent(error: TransportError) -> bool:
    """Whether the node had the request, and its answer took too long."""
    return any(isinstance(cause, ReadTimeoutError) for cause in error.errors)
