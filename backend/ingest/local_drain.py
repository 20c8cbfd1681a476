"""Draining by a process that is no worker: by a command, a request or an import that has to wait for it."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from backend.domain.errors import InstaChatError
from backend.storage.redis.workers import Workers

if TYPE_CHECKING:  # most commands do not drain, and start faster without them
    from backend.ingest.drain import Drainer
    from backend.ingest.kept_log import KeptLog


class ShardDrainer(Protocol):
    """Drains one shard. A `Drainer`, or a `LocalDrainer`."""

    def drain(self, shard: int, may_continue: Callable[[], bool] = ...) -> int:
        """See `Drainer.drain`."""


class LocalDrainer:
    """Drains as a `Drainer`, and where no worker is running, trims the kept logs as a worker would.

    Without it, what is stored would stay in Redis until a worker starts, and accepting be refused because of
    it. Thread-safe.
    """

    def __init__(
        self,
        drainer: "Callable[[], Drainer]",
        workers: Workers,
        kept_log: "Callable[[], KeptLog]",
    ) -> None:
        """`drainer` and `kept_log` return what their names say; they are called when it is needed."""
        self._drainer = drainer
        self._workers = workers
        self._kept_log = kept_log

    def drain(self, shard: int, may_continue: Callable[[], bool] = lambda: True) -> int:
        """See `Drainer.drain`. A failure to trim is no failure of the drain: the next one tries again."""
        entries = self._drainer().drain(shard, may_continue)
        with suppress(InstaChatError):
            if self._workers.state().are_missing:
                self._kept_log().trim_all()
        return entries
