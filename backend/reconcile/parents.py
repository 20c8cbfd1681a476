"""Compares parents: the counter of an application or a chat in Redis with its row and its children's rows.

Below, H is the highest number among a parent's rows. Numbers are unique under their parent by a unique index,
and a row that stands for further numbers says how many: so if all add up to H there is no gap, and counting
is enough to notice every missing number.

Numbers that are removed, dead letters, known to be lost, or not stored yet are not findings; the summary
counts them.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from backend.domain.errors import Unavailable
from backend.domain.model import Parent
from backend.reconcile.comparison import CheckResults, Comparison
from backend.reconcile.findings import Finding, FindingKind, new_finding
from backend.reconcile.repair import RepairParent
from backend.storage.postgres import child_statistics, gaps, locks
from backend.storage.postgres.child_statistics import ChildStatistics
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.gaps import Gap
from backend.storage.redis.types import CounterState

PARENTS_PER_BATCH = 500  # parents that are looked up, or confirmed, together
MAX_ATTEMPTS = 5
# Per parent: numbers above its rows that repair stores as lost (more are taken for a mistake, such as a
# counter that was set by hand), and rows that it stores in one transaction.
MAX_LOST_NUMBERS = 100_000
DIRECT_WRITE_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.02


def check_parents(comparison: Comparison, snapshot: Connection) -> CheckResults:
    """Compare all parents, or one application and its chats."""
    suspects: list[Parent] = []
    rows = child_statistics.iter_statistics(snapshot, comparison.token)
    while page := {row.parent: row for row in islice(rows, PARENTS_PER_BATCH)}:
        for parent, counter in _read_counters(comparison, list(page)).items():
            children = page[parent]
            comparison.summary.count(parent, children)
            comparison.summary.pending += max((counter.issued or 0) - children.highest, 0)
            if is_suspect(children, counter):
                suspects.append(parent)
        comparison.progress()
        if len(suspects) >= PARENTS_PER_BATCH:
            yield from _confirm(comparison, suspects)
            suspects = []
    yield from _confirm(comparison, suspects)


def is_suspect(children: ChildStatistics, counter: CounterState) -> bool:
    """Whether a parent deviates from the normal state in any way, and has to be confirmed."""
    issued = children.highest if counter.issued is None else counter.issued
    return (
        issued > children.highest
        or (issued < children.highest and counter.verified)
        or not children.is_dense
        or children.removed != children.not_stored
        or children.issued > children.highest
    )


def compare_parent(
    parent: Parent,
    children: ChildStatistics,
    issued_before: int,
    counter: CounterState,
    missing: Iterable[Gap],
    *,
    may_repair: bool,
) -> Iterator[Finding]:
    """The differences between a parent's counter and rows.

    `issued_before` is the counter's value before SQL passed the log's end and the statistics were read;
    `counter` was read after that. `missing` are the numbers that nothing stands for.
    """
    issued = counter.issued or 0

    def finding(kind: FindingKind, detail: str) -> Finding:
        return new_finding(
            kind, detail, token=parent.token, chat=parent.chat, may_repair=may_repair
        )

    if counter.verified and issued < children.highest:
        yield finding(
            FindingKind.COUNTER_BEHIND,
            f"the counter is at {issued}, the rows go up to {children.highest}",
        )
    if issued_before > children.highest:
        yield finding(
            FindingKind.COUNTER_AHEAD,
            f"the counter is at {issued_before}, the rows go up to {children.highest}: "
            f"{_describe_range(children.highest + 1, issued_before)} issued, "
            "and neither SQL nor the log has them",
        )
    differences = []
    if children.removed != children.not_stored:
        differences.append(
            f"SQL counts {children.removed} removed, the rows say {children.not_stored}"
        )
    if _has_redis_lost_numbers(children, counter):
        lost = _describe_range(max(issued, children.highest) + 1, children.issued)
        differences.append(
            f"SQL counts {children.issued} issued, the counter {issued}: {lost} issued, "
            "and Redis has lost them"
        )
    if differences:
        yield finding(FindingKind.COUNT_DIFFERS, "; ".join(differences))
    for gap in missing:
        yield _gap_finding(parent, children.highest, gap, may_repair=may_repair)


def _gap_finding(parent: Parent, highest: int, gap: Gap, *, may_repair: bool) -> Finding:
    is_chat = parent.chat is None
    numbers = "this number" if gap.size == 1 else f"the numbers {gap.first} to {gap.last}"
    found = new_finding(
        FindingKind.GAP_UNEXPLAINED,
        f"there are rows up to {highest}, and none with {numbers}",
        token=parent.token,
        chat=gap.first if is_chat else parent.chat,
        number=None if is_chat else gap.first,
        may_repair=may_repair,
    )
    return found if gap.size == 1 else found._replace(first=gap.first, last=gap.last)


def highest_issued(children: ChildStatistics, issued_before: int, counter: CounterState) -> int:
    """The highest number of a parent's children that is known to have been issued."""
    lost = children.issued if _has_redis_lost_numbers(children, counter) else 0
    return max(children.highest, issued_before, lost)


def _has_redis_lost_numbers(children: ChildStatistics, counter: CounterState) -> bool:
    """Whether SQL's count of issued numbers is above both the rows and the counter."""
    return children.issued > max(counter.issued or 0, children.highest)


def _describe_range(first: int, last: int) -> str:
    return f"{first} was" if first == last else f"{first} to {last} were"


def _read_counters(
    comparison: Comparison, parents: Sequence[Parent]
) -> Mapping[Parent, CounterState]:
    """The current counters, by one call for each shard; without those of shards that are away."""
    found: dict[Parent, CounterState] = {}
    for shard, group in comparison.group_by_shard(parents).items():
        if shard not in comparison.away:
            with comparison.away.noting(shard):
                found |= zip(group, comparison.log.inspect(shard, group)[0], strict=True)
    return found


def _confirm(comparison: Comparison, suspects: Sequence[Parent]) -> CheckResults:
    for shard, group in comparison.group_by_shard(suspects).items():
        if shard not in comparison.away:
            with comparison.away.noting(shard):
                yield from _confirm_in_shard(comparison, shard, group)


def _confirm_in_shard(
    comparison: Comparison, shard: int, parents: Sequence[Parent]
) -> CheckResults:
    """Compare suspects again, within one epoch and after every number issued before is decided in SQL."""
    for _ in range(MAX_ATTEMPTS):
        before, end = comparison.log.inspect(shard, parents)
        drained = comparison.wait_drained(shard, end)
        with _without_direct_writes(comparison.database, shard) as connection:
            found = child_statistics.find_statistics(connection, parents)
        after, end_after = comparison.log.inspect(shard, parents)
        if end_after.epoch == end.epoch:
            break
    else:
        raise Unavailable(
            f"shard {shard} of Redis changes its epoch again and again", "see `instachat doctor`"
        )
    for parent, counter_before, counter in zip(parents, before, after, strict=True):
        children = found.get(parent)
        if children is None:  # it was deleted since
            continue
        issued_before = (counter_before.issued or 0) if drained else 0
        # Counted as pending before; the wait for them has shown that they are not.
        comparison.summary.pending -= max(issued_before - children.highest, 0)
        findings = _find_differences(comparison.database, parent, children, issued_before, counter)
        repairable = False
        for finding in findings:
            repairable = finding.repairable
            yield finding
        if repairable:
            yield RepairParent(parent, highest_issued(children, issued_before, counter))


def _find_differences(
    database: Database,
    parent: Parent,
    children: ChildStatistics,
    issued_before: int,
    counter: CounterState,
) -> Iterator[Finding]:
    above = highest_issued(children, issued_before, counter) - children.highest
    may_repair = above <= MAX_LOST_NUMBERS
    compared = (parent, children, issued_before, counter)
    if children.is_dense:
        yield from compare_parent(*compared, (), may_repair=may_repair)
        return
    with database.snapshot() as connection:
        missing_rows = sum(gap.rows for gap in gaps.iter_gaps(connection, parent, children.highest))
        yield from compare_parent(
            *compared,
            gaps.iter_gaps(connection, parent, children.highest),
            may_repair=may_repair and missing_rows <= MAX_LOST_NUMBERS,
        )


@contextmanager
def _without_direct_writes(database: Database, shard: int) -> Iterator[Connection]:
    """A transaction during which no direct write holds numbers of the shard that it has not stored."""
    deadline = time.monotonic() + DIRECT_WRITE_TIMEOUT_SECONDS
    while True:
        with database.begin() as tx:
            if locks.try_exclude_reservations(tx, shard):
                yield tx
                return
        if time.monotonic() > deadline:
            raise Unavailable(
                "an import has reserved numbers and does not store them",
                "try again once it has ended",
            )
        time.sleep(POLL_SECONDS)
