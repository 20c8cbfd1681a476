"""Records applications in the log, as they are in SQL: so that they come back if SQL goes back in time.

An application is stored in SQL first, at once, and only then appended to its shard's log; the answer comes
last. So the log never has an application that SQL refused, its chats are behind it, and a drain finds nothing
to do. A process that is killed in between has not answered.
"""

from collections.abc import Callable
from contextlib import suppress

from backend.domain.errors import InstaChatError, Unconfirmed
from backend.domain.events import pack_application
from backend.ingest.epochs import Epochs
from backend.ingest.local_drain import ShardDrainer
from backend.ingest.routing import Routing
from backend.storage.postgres.applications import StoredApplication
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers


class ApplicationLog:
    """Appends the rows of applications to the log. Thread-safe.

    `notify` is called with a shard whose drain is not requested yet; it must not raise.
    """

    def __init__(
        self,
        log: Log,
        workers: Workers,
        epochs: Epochs,
        routing: Routing,
        drainer: ShardDrainer,
        notify: Callable[[int], object],
    ) -> None:
        self._log = log
        self._workers = workers
        self._epochs = epochs
        self._routing = routing
        self._drainer = drainer
        self._notify = notify

    def record(self, row: StoredApplication) -> None:
        """Append an application's row, which is committed in SQL.

        Where no worker is running, this drains a batch of its shard, so that what is stored already does not
        count as waiting. What others have accepted in the shard before is stored with it, up to the limits of
        a batch. Raises Unconfirmed if the row may not be in the log: it is stored all the same.
        """
        payload = pack_application(
            row.token, row.name, row.version, row.created_at, row.updated_at, row.current_token
        )
        shard = self._routing.resolve(row.token, row.shard)
        try:
            _, must_notify = self._epochs.retrying(
                shard, lambda: self._log.append(shard, self._epochs.read(shard), payload)
            )
        except InstaChatError as error:
            raise Unconfirmed(
                "the application is stored, and may be lost with PostgreSQL: its log does not have it "
                f"({error.message})",
                "see `instachat status`; with an idempotency key the same request can be repeated",
            ) from error
        if must_notify:
            self._notify(shard)
        self._drain_without_worker(shard)

    def _drain_without_worker(self, shard: int) -> None:
        with suppress(InstaChatError):  # it is recorded; the next drain passes it
            if self._workers.state().are_missing:
                self._drainer.drain(shard, may_continue=lambda: False)
