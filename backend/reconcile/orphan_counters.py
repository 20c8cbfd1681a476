"""Orphan counters: those in Redis that are nobody's, for `reconcile`. Each is a finding of the kind `orphan`.

A counter whose parent does not exist: its creator was killed before it stored the row, and nobody knows the
token; or it was put there by hand. Repair removes it.

A counter that gives numbers for a parent that is removed: by hand only. What it takes is dropped by the
drain. Repair closes it.

Redis has no order, so it is walked by itself. A chat that is missing among those of its application is a
gap there, and told of as that.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from backend.domain.model import EntryId, Parent, shard_of
from backend.reconcile.findings import Finding
from backend.reconcile.repair import Repairer
from backend.storage.postgres import applications, chats, child_statistics
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log

COUNTERS_PER_BATCH = 500
CREATION_GRACE_SECONDS = 1.0  # between an application's counter and its row there is a moment


def find_orphan_counters(
    log: Log,
    database: Database,
    wait_drained: Callable[[int, EntryId], bool],
    repairer: Repairer | None,
    token: str | None,
    shards: int,
) -> Iterator[Finding]:
    """All of them, or those of one token; removed or closed by the repairer, if there is one.

    `wait_drained` waits for what is in a shard's log to be decided; where it can't, that shard is passed by.
    """
    finder = _OrphanCounters(log, database)
    counters = log.scan_parents(None if token is None else shard_of(token, shards), token or "*")
    reported: set[Parent] = set()  # a walk may meet the same counter twice
    while page := list(islice(counters, COUNTERS_PER_BATCH)):
        by_shard: dict[int, list[Parent]] = {}
        for parent in page:
            if token in (None, parent.token) and parent not in reported:
                by_shard.setdefault(shard_of(parent.token, shards), []).append(parent)
        suspects = {shard: finder.orphans(shard, parents) for shard, parents in by_shard.items()}
        if any(parent.chat is None for found in suspects.values() for parent in found):
            time.sleep(CREATION_GRACE_SECONDS)
        for shard, found in suspects.items():
            _, end = log.inspect(shard, [])
            if not found or not wait_drained(shard, end):
                continue
            orphans, open_ = finder.orphans(shard, list(found)), []
            for parent, issued in orphans.items():
                reported.add(parent)
                if issued is None:
                    open_.append(parent)
                    detail = "the counter of something removed takes more"
                else:
                    detail = "a counter of something that does not exist"
                yield Finding("orphan", *parent, None, detail, True)
            if repairer is not None:
                repairer.close_counters(shard, open_)
                repairer.discard_counters(
                    shard, {p: n for p, n in orphans.items() if n is not None}
                )


class _OrphanCounters:
    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database

    def orphans(self, shard: int, parents: Sequence[Parent]) -> dict[Parent, int | None]:
        """Those of a shard's counters that are orphans now: what each says, None if it has to be closed."""
        owners = list({Parent(parent.token) for parent in parents})
        with self._database.connect() as connection:
            known_applications = applications.application_ids(
                connection, {parent.token for parent in parents}
            )
            known_chats = chats.chat_ids(
                connection, [(p.token, p.chat) for p in parents if p.chat is not None]
            )
        counters, _ = self._log.inspect(shard, [*parents, *owners])
        counter_of = dict(zip([*parents, *owners], counters, strict=True))
        found: dict[Parent, int | None] = {}
        for parent in parents:
            counter = counter_of[parent]
            known, alive = known_applications.get(parent.token, (0, False))
            if known and alive and parent.chat is not None:
                # The counters of a removed application's chats are out of reach.
                known, alive = known_chats.get((parent.token, parent.chat), (0, False))
            elif known and parent.chat is not None:
                continue
            if counter.issued is None or alive:
                continue
            if not known and not self._is_gap(parent, counter_of[Parent(parent.token)].issued):
                found[parent] = counter.issued
            elif known and counter.open and counter.verified:
                found[parent] = None
        return found

    def _is_gap(self, chat: Parent, issued: int | None) -> bool:
        """Whether that chat is one that its application has given, or has one above."""
        if chat.chat is None:
            return False
        owner = Parent(chat.token)
        with self._database.connect() as connection:
            children = child_statistics.find_statistics(connection, [owner]).get(owner)
        return children is not None and chat.chat <= max(children.highest, issued or 0)
