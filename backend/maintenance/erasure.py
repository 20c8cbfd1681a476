"""Erasure: what the engines still hold of deleted texts, beside the rows that do not have them any more.

A deletion empties the row and removes the text from the index. Copies stay for a time: in the kept log and
in Redis's file, in dead rows of PostgreSQL, in the samples of its statistics, and in its write-ahead log.
docs/erasure.md lists all places, also those that no program can reach.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from backend.domain.errors import Unavailable
from backend.ingest.drain import Drainer
from backend.ingest.kept_log import KeptLog
from backend.storage.postgres import erasure
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.workers import Workers


class ErasureStep(NamedTuple):
    """A step: which engine, what is done there, and the call that does it."""

    engine: str
    action: str
    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases the copies that the program can reach. Thread-safe."""

    log: Log
    database: Database
    drainer: Drainer
    kept_log: KeptLog
    workers: Workers
    is_private: bool
    """Whether the PostgreSQL is the private one, whose write-ahead log nothing else needs."""

    def steps(self) -> list[ErasureStep]:
        """The steps, in their order; each may be repeated.

        A step raises EngineDown when its engine is away, and what `rewrite_files`, `rewrite_tables` and
        `erase_wal` raise.
        """
        steps = [
            ErasureStep("Redis", "store the log, and delete what it keeps", self._empty_log),
            ErasureStep("Redis", "rewrite its file", self.log.rewrite_files),
            ErasureStep(
                "PostgreSQL",
                "rewrite the messages, dead letters and statistics",
                lambda: erasure.rewrite_tables(self.database),
            ),
        ]
        if self.is_private:
            steps.append(
                ErasureStep(
                    "PostgreSQL",
                    "delete the write-ahead log",
                    lambda: erasure.erase_wal(self.database),
                )
            )
        return steps

    def _empty_log(self) -> None:
        if self.workers.paused():
            raise Unavailable(
                "the job queue is paused: what is in the log can't be stored",
                "run `instachat queue resume`",
            )
        shards = self.database.refresh_installation().all_shards
        for shard, size in self.log.sizes(shards).items():
            if size.entries:
                # Even if nothing waits: after a restart of Redis, this begins the epoch to trim in.
                self.drainer.drain(shard)
        self.kept_log.delete_all()
