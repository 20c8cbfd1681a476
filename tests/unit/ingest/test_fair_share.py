"""Fair shares: an application with a long or dear backlog does not hold up the others of its shard."""

import random
from collections import defaultdict
from collections.abc import Iterable

import pytest

from backend.domain.events import MessagesCreated, pack_messages
from backend.domain.model import EntryId
from backend.ingest import fair_share
from backend.ingest.batch import BatchLimits, DecodedEntry
from backend.ingest.fair_share import Share, Turns, share_of_deferred, share_of_others
from backend.storage.postgres.shards import ShardProgress
from backend.storage.redis.types import DrainedLog, LogPage

EPOCH = 7
START = EntryId(EPOCH, 0)
LIMITS = BatchLimits(entries=4, length=1_000, seconds=float("inf"))
HOG, OTHER = "h" * 32, "o" * 32
DEAR = "\ufdfa" * 50  # folds to 900 code points


class Log:
    """A shard's log, and what a drain has stored of it, batch by batch."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, bytes]] = []
        self.progress = ShardProgress.of(START, {})
        self.turns = Turns()
        self.stored: dict[str, list[int]] = defaultdict(list)
        self.batches: list[list[str]] = []

    def append(self, *of: tuple[str, str]) -> None:
        """Append an entry of one message for each token and text."""
        for token, text in of:
            ((_, packed),) = pack_messages(token, 1, [text])
            self.entries.append((token, b"%d 1 %b" % (len(self.entries) + 1, packed)))

    def read(self, after: EntryId) -> LogPage:
        """A page of it."""
        page = [
            (b"%d-%d" % (EPOCH, number), packed)
            for number, (_, packed) in enumerate(self.entries, 1)
            if number > after.sequence
        ]
        found = page[: LIMITS.entries]
        end = EntryId(EPOCH, len(self.entries))
        return LogPage(found, end, len(found) == len(page), after, START, DrainedLog(START, 0))

    def drain(self) -> str | None:
        """Store one batch, as a drain does; returns whose turn it was."""
        token = self.turns.next(self.progress)
        if token is None:
            page = self.read(self.progress.ahead)
            share = share_of_others(page, self.progress, LIMITS, may_defer=True)
        else:
            page = self.read(self.progress.deferred[token])
            share = share_of_deferred(page, self.progress, token, LIMITS)
        self._store(share)
        self.turns.record(token, share, more=not (share.is_rest and page.complete))
        return token

    def _store(self, share: Share) -> None:
        for entry in share.batch:
            assert isinstance(entry.event, MessagesCreated)
            self.stored[entry.event.token].append(entry.event.first)
        self.batches.append([_token(entry) for entry in share.batch])
        assert share.progress.cursor >= self.progress.cursor
        assert share.progress.ahead >= self.progress.ahead
        self.progress = share.progress

    def numbers(self, token: str, through: EntryId) -> list[int]:
        """An application's entries up to there."""
        return [
            n for n, (of, _) in enumerate(self.entries, 1) if of == token and n <= through.sequence
        ]


def _token(entry: DecodedEntry) -> str:
    assert entry.event is not None
    return entry.event.token


def check(log: Log, tokens: Iterable[str]) -> None:
    """What the progress says is stored, each entry once and in its order."""
    for token in tokens:
        position = log.progress.position(token)
        assert log.stored[token] == log.numbers(token, position)
        assert log.progress.cursor <= position <= log.progress.ahead


def test_a_short_backlog_is_stored_in_the_order_of_the_log() -> None:
    log = Log()
    log.append((HOG, "a"), (OTHER, "b"), (HOG, "c"))
    assert log.drain() is None
    assert log.batches == [[HOG, OTHER, HOG]]
    assert log.progress == ShardProgress.of(EntryId(EPOCH, 3), {})


def test_an_application_whose_texts_are_dear_waits_for_the_others() -> None:
    log = Log()
    log.append(*[(HOG, DEAR)] * 10, (OTHER, "b"))
    while not log.stored[OTHER]:
        log.drain()
        check(log, [HOG, OTHER])
    assert len(log.stored[HOG]) <= 4, "the first batch, and one between the others'"
    assert log.progress.cursor < log.progress.ahead
    while log.progress.cursor < EntryId(EPOCH, 11):
        log.drain()
        check(log, [HOG, OTHER])
    assert not log.progress.deferred


def test_an_application_with_a_long_backlog_waits_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_share, "MAX_SHARED_BACKLOG", 500)
    log = Log()
    log.append(*[(HOG, "a")] * 30, (OTHER, "b"))
    log.drain()
    assert log.progress.deferred == {HOG: START}
    while not log.stored[OTHER]:
        log.drain()
    assert len(log.stored[HOG]) <= 2 * LIMITS.entries


def test_what_comes_while_an_application_is_deferred_is_stored_between_its_batches() -> None:
    log = Log()
    log.append(*[(HOG, DEAR)] * 20)
    log.drain()
    assert HOG in log.progress.deferred
    for _ in range(5):
        log.append((OTHER, "b"))
        before = len(log.batches)
        while log.stored[OTHER] != log.numbers(OTHER, EntryId(EPOCH, len(log.entries))):
            log.drain()
        assert sum(HOG in batch for batch in log.batches[before:]) <= 1


def test_an_endless_stream_of_the_others_does_not_starve_a_deferred_application() -> None:
    log = Log()
    log.append(*[(HOG, DEAR)] * 4)
    for _ in range(60):
        log.append(*[(OTHER, "b")] * 6)
        log.drain()
        check(log, [HOG, OTHER])
    assert len(log.stored[HOG]) == 4


def test_nothing_is_deferred_before_an_epoch_is_drained_once() -> None:
    """Its first drain may read entries that were stored before: positions say nothing about those."""
    log = Log()
    log.append(*[(HOG, DEAR)] * 20)
    share = share_of_others(log.read(START), log.progress, LIMITS, may_defer=False)
    assert not share.progress.deferred
    assert len(share.batch) < 20


@pytest.mark.parametrize("seed", range(20))
def test_each_entry_is_stored_once_and_in_the_order_of_its_application(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_share, "MAX_SHARED_BACKLOG", 700)
    chance = random.Random(seed)
    tokens = [name * 32 for name in "abcd"]
    log = Log()
    for _ in range(40):
        for _ in range(chance.randrange(5)):
            token = chance.choice([tokens[0], *tokens])
            log.append((token, DEAR if token in tokens[:2] and chance.random() < 0.5 else "x"))
        log.drain()
        check(log, tokens)
    for _ in range(200):
        log.drain()
        check(log, tokens)
    assert log.progress == ShardProgress.of(EntryId(EPOCH, len(log.entries)), {})


def test_a_share_that_is_cut_stops_before_the_entry_that_waits() -> None:
    """Of the others, and of a deferred application; nothing moves if the first entry waits."""
    log = Log()
    log.append(*[(OTHER, "a")] * 4)
    page = log.read(START)
    before = ShardProgress.of(START, {})
    share = share_of_others(page, before, LIMITS, may_defer=False)
    assert share.cut(0, before, None) == Share([], before, is_rest=False)
    cut = share.cut(2, before, None)
    assert [entry.entry_id.sequence for entry in cut.batch] == [1, 2]
    assert cut.progress == ShardProgress.of(EntryId(EPOCH, 2), {})
    ahead = ShardProgress.of(EntryId(EPOCH, 4), {OTHER: START})
    theirs = share_of_deferred(page, ahead, OTHER, LIMITS).cut(3, ahead, OTHER)
    assert theirs.progress.position(OTHER) == theirs.progress.cursor == EntryId(EPOCH, 3)
    assert theirs.progress.ahead == EntryId(EPOCH, 4)
