"""Reads what follows a number in a chat: each number's message, or why there is none.

Numbers are dense, so a follower is a cursor: the last number that it was told of. A number without a row is
passed only if it is decided that it will never get one, so that no order of commits can hide a message.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backend.domain.errors import InstaChatError
from backend.domain.model import EntryId, Parent
from backend.ingest.counters import Counters
from backend.live.events import (
    Changed,
    ChatKey,
    Created,
    Decided,
    Deleted,
    Edited,
    Ended,
    EndReason,
    Gone,
    GoneReason,
)
from backend.storage.postgres import applications, chats, following, locks, shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.following import FollowedChat, FollowStart, NumberState

LOOK_INTERVAL_SECONDS = 5.0  # between two reads of a chat about which nothing is announced
RETRY_SECONDS = 0.5  # after a failure, and while a number is undecided
MAX_ROWS = 2_000  # of one statement
PAGE_ROWS = 200  # of one chat
MIN_PAGE_ROWS = 2
MAX_CHATS = MAX_ROWS // MIN_PAGE_ROWS  # of one statement
MAX_SINGLE_GONE = 100  # a longer gap is one event
_REASONS = {
    "removed": GoneReason.REMOVED,
    "dead": GoneReason.REJECTED,
    "lost": GoneReason.LOST,
}


class Position(NamedTuple):
    """A follower's place in a chat.

    `chat_id` is None while the chat has no row yet. `changed` are numbers that may have been edited or
    deleted. `gap` is that of the last news, if it began after `after`.
    """

    chat_id: int | None
    after: int
    changed: frozenset[int] = frozenset()
    gap: "Gap | None" = None


class Gap(NamedTuple):
    """Numbers after `after` that have no row, below one that has; or all numbers of a chat without a row.

    Everything that was accepted for them was in the shard's log, up to `log_end`, when the gap was first
    seen.
    """

    after: int
    shard: int
    log_end: EntryId


class News(NamedTuple):
    """What is new at a position.

    `ended`: there is nothing more to follow. `changes` has for each changed number, up to the position, what
    its followers hear, and its present state.
    `more`: look again at once. `undecided`: the next number may still be stored; look again later, with `gap`
    if it is known.
    """

    chat_id: int | None
    ended: Ended | None
    changes: list[tuple[Changed, Decided]]
    decided: list[Decided]
    more: bool
    undecided: bool
    gap: Gap | None = None


class _Decision(NamedTuple):
    decided: list[Decided]
    undecided: bool = False
    gap: Gap | None = None


class LiveReader:
    """Reads what is new for followers. Thread-safe. Raises EngineDown if PostgreSQL is away."""

    def __init__(self, database: Database, counters: Counters) -> None:
        self._database = database
        self._counters = counters

    def start(self, chat: ChatKey) -> FollowStart | None:
        """Where a chat is now; None if it has no row yet."""
        with self._database.connect() as connection:
            return following.follow_start(connection, *chat)

    def read(self, positions: Mapping[ChatKey, Position]) -> dict[ChatKey, News]:
        """What is new in each of at most MAX_CHATS chats: one statement for all of them.

        A second one reads the messages that may have changed; others find chats that had no row.
        """
        known = {key: place for key, place in positions.items() if place.chat_id is not None}
        limit = min(PAGE_ROWS, max(MIN_PAGE_ROWS, MAX_ROWS // max(len(positions), 1)))
        with self._database.connect() as connection:
            if unknown := [key for key in positions if key not in known]:
                for key, row in chats.chat_ids(connection, unknown).items():
                    known[key] = positions[key]._replace(chat_id=row.id)
            afters = {place.chat_id: place.after for place in known.values() if place.chat_id}
            found = following.rows_after(connection, afters, limit) if afters else {}
            states = following.states_of_numbers(
                connection,
                [
                    (place.chat_id, number)
                    for place in known.values()
                    for number in place.changed
                    if place.chat_id
                    and number <= place.after  # later ones are read with their rows
                ],
            )
        for key in [key for key, place in known.items() if place.chat_id not in found]:
            del known[key]  # a chat that is removed with its application, or that SQL has forgotten
        news = self._find_missing({key: positions[key] for key in positions if key not in known})
        for key, place in known.items():
            assert place.chat_id is not None
            chat = found[place.chat_id]
            if chat.state != "stored":
                reason = EndReason.LOST if chat.state == "lost" else EndReason.DELETED
                news[key] = _ended(place.chat_id, reason)
                continue
            decided, undecided, gap = self._decide(key, place, chat, limit)
            changes = [
                change
                for number in sorted(place.changed)
                if (state := states.get((place.chat_id, number)))
                if (change := _change(state))
            ]
            more = len(chat.rows) >= limit and not undecided
            news[key] = News(place.chat_id, None, changes, decided, more, undecided, gap)
        return {key: news[key] for key in positions}

    def _find_missing(self, positions: Mapping[ChatKey, Position]) -> dict[ChatKey, News]:
        """What becomes of chats that had no row: they may be stored yet, or never.

        A few statements and one call of Redis for each shard, because all chats that a paused queue has not
        stored are looked at again and again.
        """
        news: dict[ChatKey, News] = {}
        by_shard: dict[int, list[ChatKey]] = {}
        if not positions:
            return news
        with (
            self._database.connect() as connection
        ):  # which may place one into another shard than this
            shard_of = self._counters.locate(connection, {token for token, _ in positions})
        for key in positions:
            by_shard.setdefault(shard_of[key[0]], []).append(key)
        for shard, keys in by_shard.items():
            end = self._read_log_end(shard)
            gaps = {
                key: _gap_at(positions[key].after, positions[key].gap, shard, end) for key in keys
            }
            news.update(
                (key, News(None, None, [], [], False, True, gap)) for key, gap in gaps.items()
            )
            if end:
                news.update(self._read_decided_chats(shard, gaps))
        return news

    def _read_decided_chats(
        self, shard: int, gaps: Mapping[ChatKey, Gap | None]
    ) -> dict[ChatKey, News]:
        """Those of a shard's chats that are stored by now, or will never be."""
        with self._database.begin(durable=False) as tx:
            progress = shards.shard_progress(tx, shard)
            decided = [
                key for key, gap in gaps.items() if gap and gap.log_end <= progress.position(key[0])
            ]
            if not decided or not locks.try_exclude_reservations(tx, shard):
                return {}
            rows = chats.chat_ids(tx, decided)
            parents = applications.application_ids(tx, {token for token, _ in decided})
        news: dict[ChatKey, News] = {}
        for key in decided:
            if row := rows.get(key):
                news[key] = News(row.id, None, [], [], more=True, undecided=False)
            else:
                parent = parents.get(key[0])
                is_lost = parent is not None and parent.alive
                news[key] = _ended(None, EndReason.LOST if is_lost else EndReason.DELETED)
        return news

    def _decide(self, key: ChatKey, place: Position, chat: FollowedChat, limit: int) -> _Decision:
        """What became of the numbers after a position, up to a gap that may still be filled."""
        assert place.chat_id is not None
        decided, rest = _until_gap(place.after, chat.rows)
        if not rest:
            return _Decision(decided)
        last = decided[-1].number if decided else place.after
        gap = self._find_gap(key, last, place.gap)
        rows = gap and self._read_decided(key[0], place.chat_id, gap, limit)
        if rows is None:
            return _Decision(decided, undecided=True, gap=gap)
        expected = last + 1
        for row in rows:
            decided += _gap(expected, row.number - 1)
            decided.append(_outcome(row))
            expected = row.number + 1
        return _Decision(decided)

    def _find_gap(self, key: ChatKey, after: int, known: Gap | None) -> Gap | None:
        """The gap after a number; None if the log's end is not known."""
        token, number = key
        try:
            issued = self._counters.read_issued_with_end([Parent(token, number)])
        except InstaChatError:  # Redis is away, or the chat is being deleted
            return None
        return _gap_at(after, known, issued.shard, issued.end)

    def _read_log_end(self, shard: int) -> EntryId | None:
        try:
            return self._counters.read_log_end(shard)
        except InstaChatError:  # Redis is away
            return None

    def _read_decided(
        self, token: str, chat_id: int, gap: Gap, limit: int
    ) -> Sequence[NumberState] | None:
        """The rows after a gap, if the numbers between them will never get one; None if they may.

        They may while the log holds anything that was accepted before, and while a direct write has reserved
        numbers.
        """
        with self._database.begin(durable=False) as tx:
            if not locks.try_exclude_reservations(tx, gap.shard):
                return None
            if shards.shard_progress(tx, gap.shard).position(token) < gap.log_end:
                return None
            found = following.rows_after(tx, {chat_id: gap.after}, limit).get(chat_id)
            return found.rows if found else None


def _gap_at(after: int, known: Gap | None, shard: int, end: EntryId | None) -> Gap | None:
    """The gap after a number, of which the log's end is known; None if it is not.

    That of the first look, unless an epoch has begun since: under load, the drain never reaches the end of
    the present moment.
    """
    if end is None:
        return None
    if known and (known.after, known.shard, known.log_end.epoch) == (after, shard, end.epoch):
        return known
    return Gap(after, shard, end)


def _ended(chat_id: int | None, reason: EndReason) -> News:
    return News(chat_id, Ended(reason), [], [], more=False, undecided=False)


def _until_gap(
    after: int, rows: Sequence[NumberState]
) -> tuple[list[Decided], Sequence[NumberState]]:
    """What became of the numbers up to the first one without a row; and the rows after that one."""
    decided: list[Decided] = []
    for place, row in enumerate(rows):
        if row.number != after + 1 + place:
            return decided, rows[place:]
        decided.append(_outcome(row))
    return decided, ()


def _gap(first: int, last: int) -> list[Decided]:
    if last - first >= MAX_SINGLE_GONE:
        return [Gone(first, last, GoneReason.LOST)]
    return [Gone(number, number, GoneReason.LOST) for number in range(first, last + 1)]


def _outcome(row: NumberState) -> Decided:
    if row.message is not None:
        return Created(row.message)
    return Gone(row.number, row.number, _REASONS[row.state])


def _change(row: NumberState) -> tuple[Changed, Decided] | None:
    """What the followers of a changed message hear, and its present state; None if it has none to tell."""
    if row.message is not None:
        return Edited(row.message), Created(row.message)
    return (Deleted(row.number), _outcome(row)) if row.state == "removed" else None
