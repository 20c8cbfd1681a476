"""The kinds of difference that `reconcile` finds; for each, the check that finds it and what repairs it.

To add a kind: a member of FindingKind, its case in `rule_of`, a check that yields it, and a repair if none
fits. All of that is in this package. mypy reports a kind without a case in `rule_of`, and a repair that
`Repairer.apply` does not handle. The tests demand that each kind is planted, found, repaired, and described
in docs/reconcile.md.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import NamedTuple, assert_never

from backend.domain.model import Parent
from backend.domain.shards_away import ShardsAway
from backend.reconcile.repair import (
    CloseCounters,
    DeadLetterOrphans,
    DiscardCounters,
    Repair,
    RepairParent,
    Republish,
)
from backend.storage.postgres.child_statistics import ChildStatistics


class FindingKind(StrEnum):
    """The kinds of difference, as the command line and the contract name them."""

    COUNTER_BEHIND = "counter_behind"
    """A counter that accept trusts would issue a number that a row has already.

    Caused by hand only, or by a Redis that was restored without a new epoch. A counter that is missing or of
    an earlier epoch is correct: accept raises it to the highest row before it issues a number.
    """

    COUNTER_AHEAD = "counter_ahead"
    """Numbers above the highest row were issued, and the log does not hold them.

    Their messages were accepted and lost, or an import was killed.
    """

    COUNT_DIFFERS = "count_differs"
    """A parent's `removed` or `issued` in SQL is wrong.

    `removed` differs from its rows; or `issued`, which is copied from Redis, is above both the counter and
    the highest row: Redis has lost numbers that it had issued.
    """

    GAP_UNEXPLAINED = "gap_unexplained"
    """Numbers below the highest row have neither a row nor a dead letter.

    They were issued and lost, or an import has left them out. All of a gap are one finding.
    """

    ORPHAN = "orphan"
    """A message whose chat does not exist, or a counter whose parent does not exist or is removed."""

    MISSING_DOCUMENT = "missing_document"
    """A visible message has no document: the index has lost it, or has rejected the message."""

    STALE_DOCUMENT = "stale_document"
    """A visible message's document has another version or is a tombstone.

    With an older version, searches find a text that was edited away. A newer version means that SQL was
    restored from an older backup.
    """

    GHOST_DOCUMENT = "ghost_document"
    """A document of a message that is removed or was rejected, or whose parent is removed."""

    DUPLICATE_NUMBER = "duplicate_number"
    """A number that was given twice: one creation is stored under it, the other one is a dead letter.

    Its caller was answered with the number of something else, so it is reported until the dead letter is
    discarded.
    """

    MISSING_ROW = "missing_row"
    """A document whose message has neither a row nor a tombstone, or has a row with the state `lost`.

    The document is all that is left of the message, so it is reported and never deleted.
    """


class Check(Enum):
    """The comparisons of a reconciliation, in the order in which they run."""

    PARENTS = "parents"
    DOCUMENTS = "documents"
    ORPHAN_MESSAGES = "orphan messages"
    DUPLICATE_NUMBERS = "duplicate numbers"
    ORPHAN_COUNTERS = "orphan counters"


class FindingRule(NamedTuple):
    """Which checks find a kind, which repairs it has, and what these do, as `--dry-run` prints it.

    A kind without repairs can only be reported.
    """

    checks: frozenset[Check]
    repairs: frozenset[type[Repair]]
    remedy: str | None


def rule_of(kind: FindingKind) -> FindingRule:
    """The rule of a kind. A kind without a case is a type error."""
    match kind:
        case FindingKind.COUNTER_BEHIND:
            return _rule(Check.PARENTS, RepairParent, "raise the counter")
        case FindingKind.COUNTER_AHEAD:
            return _rule(Check.PARENTS, RepairParent, "store the numbers as lost")
        case FindingKind.COUNT_DIFFERS:
            return _rule(Check.PARENTS, RepairParent, "count again")
        case FindingKind.GAP_UNEXPLAINED:
            return _rule(Check.PARENTS, RepairParent, "store the numbers as lost")
        case FindingKind.ORPHAN:
            return FindingRule(
                frozenset({Check.ORPHAN_MESSAGES, Check.ORPHAN_COUNTERS}),
                frozenset({DeadLetterOrphans, CloseCounters, DiscardCounters}),
                "make it a dead letter, or remove the counter",
            )
        case FindingKind.MISSING_DOCUMENT | FindingKind.STALE_DOCUMENT:
            return _rule(Check.DOCUMENTS, Republish, "publish the message again")
        case FindingKind.GHOST_DOCUMENT:
            return _rule(Check.DOCUMENTS, Republish, "publish that it is removed")
        case FindingKind.DUPLICATE_NUMBER:
            return FindingRule(frozenset({Check.DUPLICATE_NUMBERS}), frozenset(), None)
        case FindingKind.MISSING_ROW:
            return FindingRule(frozenset({Check.DOCUMENTS}), frozenset(), None)
        case _:
            assert_never(kind)


def _rule(check: Check, repair: type[Repair], remedy: str) -> FindingRule:
    return FindingRule(frozenset({check}), frozenset({repair}), remedy)


class Finding(NamedTuple):
    """One difference, and its subject: an application, a chat, or a message.

    An identifier that does not exist (the chat of an orphan) is None. A gap of several numbers has its
    `first` and its `last` one; the first one is also its `number`, or its `chat` if chats are missing.
    """

    kind: FindingKind
    token: str | None
    chat: int | None
    number: int | None
    detail: str
    repairable: bool
    first: int | None = None
    last: int | None = None


def new_finding(
    kind: FindingKind,
    detail: str,
    *,
    token: str | None = None,
    chat: int | None = None,
    number: int | None = None,
    may_repair: bool = True,
) -> Finding:
    """A finding, repairable if its kind has a repair and this one `may_repair`."""
    repairable = bool(rule_of(kind).repairs) and may_repair
    return Finding(kind, token, chat, number, detail, repairable)


@dataclass(slots=True)
class ReconcileSummary:
    """How much was compared, and what explains the gaps that are not findings."""

    applications: int = 0
    chats: int = 0
    messages: int = 0
    documents: int | None = None  # None without an index
    removed: int = 0
    dead: int = 0
    lost: int = 0  # rows with the state `lost`
    pending: int = 0  # numbers issued and not stored yet, and documents not published yet
    findings: int = 0
    repaired: int = 0
    away: ShardsAway = field(default_factory=ShardsAway)
    """The shards whose counters are not compared, because their node of a cluster does not answer."""

    @property
    def compared_keys(self) -> int:
        """How many keys were compared."""
        return self.applications + self.chats + self.messages + (self.documents or 0)

    def count(self, parent: Parent, children: ChildStatistics) -> None:
        """Count a parent and its children as compared."""
        if parent.chat is None:
            self.applications += 1
        else:
            self.chats += 1
            self.messages += children.rows
        self.removed += children.removed_rows
        self.dead += children.dead
        self.lost += children.lost
