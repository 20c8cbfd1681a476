"""Finds orphan counters in Redis. They have no row, so the walk through SQL does not meet them.

A counter whose parent does not exist: it was written by hand, or a process of an earlier release, which made
the counter before the row, could not store the application, so no client knows the token. Repair removes it.

An open counter of a parent that is removed: written by hand only. The drain rejects what it accepts. Repair
closes it.

A chat that is missing among those of its application is not an orphan but a gap, which `parents` finds.
"""

import time
from collections.abc import Sequence
from itertools import islice

from backend.domain.errors import NodeDown
from backend.domain.model import Parent
from backend.reconcile.comparison import CheckResults, Comparison
from backend.reconcile.findings import FindingKind, new_finding
from backend.reconcile.repair import CloseCounters, DiscardCounters
from backend.storage.postgres import applications, chats, child_statistics

COUNTERS_PER_BATCH = 500
CREATION_GRACE_SECONDS = (
    1.0  # in earlier releases an application's counter exists for a moment before its row
)


def check_orphan_counters(comparison: Comparison) -> CheckResults:
    """Find all orphan counters, or those of one token.

    Skips a shard whose log cannot be drained in time, which only a dry run allows.
    """
    token, away = comparison.token, comparison.away
    shards: Sequence[int] = comparison.database.installation.all_shards
    if token is not None:
        shards = list(comparison.group_by_shard([Parent(token)]))
    for server in comparison.log.group_by_server([s for s in shards if s not in away]):
        try:
            yield from _check_server(comparison, server)
        except NodeDown as error:
            away |= dict.fromkeys(server, error)


def _check_server(comparison: Comparison, of_server: Sequence[int]) -> CheckResults:
    """Find the orphan counters of shards of one server."""
    log, token = comparison.log, comparison.token
    counters = log.scan_parents(of_server, token or "*")
    reported: set[Parent] = set()  # SCAN may return a key twice
    while page := list(islice(counters, COUNTERS_PER_BATCH)):
        new = [p for p in page if token in (None, p.token) and p not in reported]
        suspects = {
            shard: _find_orphans(comparison, shard, group)
            for shard, group in comparison.group_by_shard(new).items()
        }
        if any(parent.chat is None for found in suspects.values() for parent in found):
            time.sleep(CREATION_GRACE_SECONDS)
        for shard, found in suspects.items():
            _, end = log.inspect(shard, [])
            if not found or not comparison.wait_drained(shard, end):
                continue
            orphans = _find_orphans(comparison, shard, list(found))
            for parent, issued in orphans.items():
                reported.add(parent)
                yield new_finding(
                    FindingKind.ORPHAN,
                    "the open counter of a removed parent"
                    if issued is None
                    else "a counter whose parent does not exist",
                    token=parent.token,
                    chat=parent.chat,
                )
            if closing := [p for p, issued in orphans.items() if issued is None]:
                yield CloseCounters(shard, closing)
            if unknown := {p: issued for p, issued in orphans.items() if issued is not None}:
                yield DiscardCounters(shard, unknown)


def _find_orphans(
    comparison: Comparison, shard: int, parents: Sequence[Parent]
) -> dict[Parent, int | None]:
    """The orphans among a shard's counters: the value of each that has to be removed, None to close it."""
    owners = list({Parent(parent.token) for parent in parents})
    with comparison.database.connect() as connection:
        known_applications = applications.application_ids(
            connection, {parent.token for parent in parents}
        )
        known_chats = chats.chat_ids(
            connection, [(p.token, p.chat) for p in parents if p.chat is not None]
        )
    counters, _ = comparison.log.inspect(shard, [*parents, *owners])
    counter_of = dict(zip([*parents, *owners], counters, strict=True))
    found: dict[Parent, int | None] = {}
    for parent in parents:
        counter = counter_of[parent]
        known, alive = known_applications.get(parent.token, (0, False))
        if known and alive and parent.chat is not None:
            known, alive = known_chats.get((parent.token, parent.chat), (0, False))
        elif known and parent.chat is not None:
            continue  # accept refuses every request for a chat of a removed application
        if counter.issued is None or alive:
            continue
        if not known and not _is_gap(comparison, parent, counter_of[Parent(parent.token)].issued):
            found[parent] = counter.issued
        elif known and counter.open and counter.verified:
            found[parent] = None
    return found


def _is_gap(comparison: Comparison, chat: Parent, issued: int | None) -> bool:
    """Whether the application has issued this chat's number, so that the chat is missing, not an orphan."""
    if chat.chat is None:
        return False
    owner = Parent(chat.token)
    with comparison.database.connect() as connection:
        children = child_statistics.find_statistics(connection, [owner]).get(owner)
    return children is not None and chat.chat <= max(children.highest, issued or 0)
