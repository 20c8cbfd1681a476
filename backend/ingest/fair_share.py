"""Fairness between the applications of a shard: one with a long backlog does not hold up the others.

A shard has one log. As long as its backlog is short, it is stored in the log's order. If an application makes
it long, or its texts are dear to store, the application is **deferred**: the drain goes ahead with what the
others accepted, and stores the deferred application a batch at a time in between. The entries of each
application are stored in their order in any case, and no event concerns two applications.

`ShardProgress` says what is stored by now. It is in the shard's row, so it is committed with the messages.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backend.domain.events import token_of
from backend.domain.model import EntryId
from backend.ingest.batch import BatchLimits, DecodedEntry, decode_batch
from backend.storage.postgres.shards import ShardProgress
from backend.storage.redis.types import LogPage

# In bytes of the log: a drain stores as much of usual texts within a second.
MAX_SHARED_BACKLOG = 8 * 1024 * 1024
# Batches of the applications that are not deferred, before one of a deferred application. Pages without an
# entry of theirs do not count: to read them takes a hundredth of the time.
MAX_BATCHES_AHEAD = 4


class Share(NamedTuple):
    """What one transaction stores, and how far the shard is stored then.

    `is_rest` says that these are all entries of the page that it was taken from.
    """

    batch: list[DecodedEntry]
    progress: ShardProgress
    is_rest: bool

    def cut(self, count: int, before: ShardProgress, token: str | None) -> "Share":
        """The share of the first `count` entries of the batch: the next one has to wait.

        `before` is how far the shard was stored; `token` is the deferred application whose share it is.
        """
        if not count:
            return Share([], before, is_rest=False)
        batch = self.batch[:count]
        through = batch[-1].entry_id
        if token is not None:
            progress = ShardProgress.of(before.ahead, {**before.deferred, token: through})
        else:
            deferred = {
                other: entry
                for other, entry in self.progress.deferred.items()
                if other in before.deferred or entry <= through
            }
            progress = ShardProgress.of(max(through, before.ahead), deferred)
        return Share(batch, progress, is_rest=False)


class Turns:
    """Whose entries of a shard are stored next. One drain of the shard uses it at a time."""

    def __init__(self) -> None:
        self._last_token = ""
        self._batches_ahead = MAX_BATCHES_AHEAD

    def next(self, progress: ShardProgress) -> str | None:
        """The deferred application whose turn it is; None if it is the others'.

        The others come first, until they have nothing to store, or for some batches; then each deferred
        application in turn has one batch.
        """
        if not progress.deferred or self._batches_ahead:
            return None
        later = [token for token in progress.deferred if token > self._last_token]
        return min(later or progress.deferred)

    def record(self, token: str | None, share: Share, *, more: bool) -> None:
        """A share is stored: of a deferred application, or of the others, who may have `more` to store."""
        if token is not None:
            self._last_token, self._batches_ahead = token, MAX_BATCHES_AHEAD
        elif not more:
            self._batches_ahead = 0
        elif share.batch and self._batches_ahead:
            self._batches_ahead -= 1


def share_of_others(
    page: LogPage, progress: ShardProgress, limits: BatchLimits, *, may_defer: bool
) -> Share:
    """The next entries of the applications that are not deferred; `page` begins after `progress.ahead`.

    If it `may_defer`, an application may be deferred from now on, behind its entries in the batch.
    """
    deferred = dict(progress.deferred)
    if may_defer:
        deferred |= dict.fromkeys(_backlog_makers(page, deferred), page.after)
    ours = page.entries
    if deferred:
        ours = [(id_, packed) for id_, packed in ours if token_of(packed) not in deferred]
    batch = decode_batch(ours, limits)
    if is_rest := len(batch) == len(ours):
        through = max(page.through, progress.ahead)
    else:
        through = max(batch[-1].entry_id, progress.ahead)
        if may_defer:
            deferred |= dict.fromkeys(_dear_applications(batch), through)
    return Share(batch, ShardProgress.of(through, deferred), is_rest)


def share_of_deferred(
    page: LogPage, progress: ShardProgress, token: str, limits: BatchLimits
) -> Share:
    """The next entries of a deferred application; `page` begins after its position.

    The application is not deferred any more once it has caught up with the others.
    """
    through = min(page.through, progress.ahead)
    theirs = [
        (id_, packed)
        for id_, packed in page.entries
        if token_of(packed) == token and EntryId.parse(id_.decode()) <= through
    ]
    batch = decode_batch(theirs, limits)
    is_rest = len(batch) == len(theirs)
    deferred = dict(progress.deferred)
    deferred[token] = through if is_rest else batch[-1].entry_id
    if deferred[token] >= progress.ahead:
        del deferred[token]
    return Share(batch, ShardProgress.of(progress.ahead, deferred), is_rest)


def _backlog_makers(page: LogPage, deferred: Mapping[str, EntryId]) -> list[str]:
    """The applications that make the backlog too long for all to wait for it."""
    if page.complete:
        return []
    waiting = page.end.sequence - page.last_entry.sequence
    max_total = MAX_SHARED_BACKLOG / (1 + waiting / len(page.entries))  # of the page
    # Most backlogs are short, with those of deferred applications, too. To find the tokens takes longer.
    if sum(len(packed) for _, packed in page.entries) <= max_total:
        return []
    sizes = Counter[str]()
    for _, packed in page.entries:
        token = token_of(packed)
        if token is not None and token not in deferred:
            sizes[token] += len(packed)
    total = sizes.total()
    if total <= max_total:
        return []
    # Twice the even share: if many have as much, it is nobody's backlog, and the log's order is fair.
    return [token for token, size in sizes.items() if size >= total * min(2 / len(sizes), 0.5)]


def _dear_applications(batch: Sequence[DecodedEntry]) -> list[str]:
    """The applications that have filled a batch before its page was stored, so that others had to wait."""
    lengths = Counter[str]()
    for entry in batch:
        if entry.event is not None:
            lengths[entry.event.token] += entry.length
    return [token for token, length in lengths.items() if length >= lengths.total() / 2]
