"""Strays: counters in Redis that are nobody's, for `reconcile`. Each is a finding of the kind `orphan`.

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
from backend.reconcile.repair import Mender
from backend.storage import postgres
from backend.storage.postgres import Database, child_statistics
from backend.storage.redis.log import Log

AT_ONCE = 500
CREATION_SECONDS = 1.0  # between an application's counter and its row there is a moment


def find_strays(
    log: Log,
    database: Database,
    settle: Callable[[int, EntryId], bool],
    mender: Mender | None,
    token: str | None,
    shards: int,
) -> Iterator[Finding]:
    """All of them, or those of one token; removed or closed by the mender, if there is one.

    `settle` waits for what is in a shard's log to be decided; where it can't, that shard is passed by.
    """
    walk = _Walk(log, database)
    counters = log.parents(None if token is None else shard_of(token, shards), token or "*")
    told: set[Parent] = set()  # a walk may meet the same counter twice
    while page := list(islice(counters, AT_ONCE)):
        by_shard: dict[int, list[Parent]] = {}
        for parent in page:
            if token in (None, parent.token) and parent not in told:
                by_shard.setdefault(shard_of(parent.token, shards), []).append(parent)
        suspects = {shard: walk.strays(shard, parents) for shard, parents in by_shard.items()}
        if any(parent.chat is None for found in suspects.values() for parent in found):
            time.sleep(CREATION_SECONDS)
        for shard, found in suspects.items():
            _, end = log.look(shard, [])
            if not found or not settle(shard, end):
                continue
            strangers, open_ = walk.strays(shard, list(found)), []
            for parent, issued in strangers.items():
                told.add(parent)
                if issued is None:
                    open_.append(parent)
                    detail = "the counter of something removed takes more"
                else:
                    detail = "a counter of something that does not exist"
                yield Finding("orphan", *parent, None, detail, True)
            if mender is not None:
                mender.close(shard, open_)
                mender.discard(shard, {p: n for p, n in strangers.items() if n is not None})


class _Walk:
    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database

    def strays(self, shard: int, parents: Sequence[Parent]) -> dict[Parent, int | None]:
        """Those of a shard's counters that are strays now: what each says, None if it has to be closed."""
        owners = list({Parent(parent.token) for parent in parents})
        with self._database.connect() as connection:
            applications = postgres.application_ids(
                connection, {parent.token for parent in parents}
            )
            chats = postgres.chat_ids(
                connection, [(p.token, p.chat) for p in parents if p.chat is not None]
            )
        counters, _ = self._log.look(shard, [*parents, *owners])
        counter_of = dict(zip([*parents, *owners], counters, strict=True))
        found: dict[Parent, int | None] = {}
        for parent in parents:
            counter = counter_of[parent]
            known, alive = applications.get(parent.token, (0, False))
            if known and alive and parent.chat is not None:
                # The counters of a removed application's chats are out of reach.
                known, alive = chats.get((parent.token, parent.chat), (0, False))
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
            tally = child_statistics.tallies(connection, [owner]).get(owner)
        return tally is not None and chat.chat <= max(tally.highest, issued or 0)
