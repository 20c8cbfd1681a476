"""What the checks of one reconciliation share."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from backend.domain.model import EntryId, Parent, group_by_shard
from backend.domain.shards_away import ShardsAway
from backend.ingest.routing import Routing
from backend.reconcile.findings import Finding, ReconcileSummary
from backend.reconcile.repair import Repair
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.search_index import SearchIndex

CheckResults: TypeAlias = Iterator[Finding | Repair]
"""What a check yields: findings, and after them the repairs, which the caller applies or drops."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The stores and the scope of one reconciliation. Checks write to no store."""

    log: Log
    database: Database
    routing: Routing
    index: SearchIndex | None
    token: str | None
    """Of the only application to compare; None compares all."""

    wait_drained: Callable[[int, EntryId | None], bool]
    """Waits until SQL has passed an entry of a shard's log (None: the current end of the log).

    Returns False if that does not happen in time, which only a dry run allows.
    """

    report_progress: Callable[[int], object]
    """Called with the number of keys compared so far."""

    summary: ReconcileSummary = field(default_factory=ReconcileSummary)

    def group_by_shard(self, parents: Iterable[Parent]) -> dict[int, list[Parent]]:
        """Parents by the shard that they are in now, each group in the order given."""
        wanted = list(parents)
        with self.database.connect() as connection:
            shard_of = self.routing.locate(connection, {parent.token for parent in wanted})
        return group_by_shard(wanted, shard_of)

    @property
    def away(self) -> ShardsAway:
        """The shards that are passed over, because their node of a cluster does not answer."""
        return self.summary.away

    def progress(self) -> None:
        """Report how many keys were compared so far."""
        self.report_progress(self.summary.compared_keys)
