"""The tail of a chat: the messages that its searches have to read from SQL, as the index may not show them.

They are the messages that the outbox names, published or not, and those that the index has rejected. A
search reads the tail before it asks the index: what leaves the tail meanwhile is in the index's answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.grouped_reads import PROBED_ROWS
from backend.storage.postgres.search_indices import RegisteredIndex
from backend.storage.postgres.statements import hot

MAX_TAIL_CHANGES = 50_000  # of one chat's messages, in as many rows of the outbox
# Of all chats' messages, in the same rows: each takes less than a microsecond.
MAX_NAMED_CHANGES = 1_000_000
PARTIAL_TAIL_ROWS = 400  # of up to 2,500 changes, which are read if there are more than that
MIN_RANGE_LENGTH = 100  # shorter ranges are cheaper to look up message by message


class NumberRange(NamedTuple):
    """The numbers from `first` to `last`."""

    first: int
    last: int


class Tail(NamedTuple):
    """A chat's tail above some number: single numbers in order, and long ranges, which do not overlap them.

    Where it exceeds the limits above, it is a part of the tail, and `complete` is False.
    """

    numbers: Sequence[int]
    ranges: Sequence[NumberRange]
    complete: bool

    def count_between(self, first: int, last: int) -> int:
        """How many of the numbers from `first` to `last` are in it."""
        singles = sum(first <= number <= last for number in self.numbers)
        overlaps = (min(last, one.last) - max(first, one.first) + 1 for one in self.ranges)
        return singles + sum(overlap for overlap in overlaps if overlap > 0)


NO_TAIL = Tail((), (), complete=True)


class SearchState(NamedTuple):
    """What a search reads before it asks the index: which one is live, if any, and the chat's tail."""

    live: RegisteredIndex | None
    tail: Tail


# text(), all of these: arrays that are unnested, each LIMIT at its place, which bounds what an outage leaves.
# Two statements, because most chats have no tail, and planning the second takes longer than running both.
# The first one serves every search, so it reads the live index, too.
SEARCH_STATE = hot(
    "search_state",
    text(
        """
        SELECT i.name, i.state, i.mapping, i.made_at IS NOT NULL AS made, t.rows, t.rejected
        FROM (SELECT
                 (SELECT count(*) FROM (
                     SELECT FROM outbox
                     WHERE chats @> ARRAY[cast(:chat_id AS bigint)] LIMIT :rows) n) AS rows,
                 EXISTS (SELECT FROM dead_letter WHERE kind = 'publish') AS rejected) t
        LEFT JOIN search_index i ON i.state = 'live'"""
    ),
)
# One statement, so that it sees one moment: a message passes from the outbox to the dead letters, and back.
TAIL = hot(
    "tail",
    text(
        """
        WITH named AS MATERIALIZED (
            SELECT chats, numbers, size FROM outbox
            WHERE chats @> ARRAY[cast(:chat_id AS bigint)] LIMIT :changes),
        total AS MATERIALIZED (
            SELECT count(*) AS rows, coalesce(sum(size), 0) <= :all_changes AS readable FROM named)
        SELECT total.rows, total.readable,
               ARRAY(SELECT n.number
                     FROM (SELECT * FROM named
                           LIMIT (SELECT CASE WHEN NOT readable THEN cast(:partial AS bigint) END
                                  FROM total)) r,
                          unnest(r.chats, r.numbers) AS n(chat_id, number)
                     WHERE n.chat_id = :chat_id AND n.number > :after LIMIT :changes) AS numbers,
               ARRAY(SELECT d.number FROM chat c JOIN application a ON a.id = c.application_id
                     JOIN dead_letter d
                         ON d.kind = 'publish' AND d.token = a.token AND d.chat = c.number
                     WHERE c.id = :chat_id AND d.number > :after LIMIT :changes) AS rejected
        FROM total"""
    ),
)


def read_search_state(connection: Connection, chat_id: int, after: int) -> SearchState:
    """The live index, and the tail of a chat above the number `after`."""
    state = connection.execute(SEARCH_STATE, {"chat_id": chat_id, "rows": PROBED_ROWS}).one()
    live = None
    if state.name is not None:
        live = RegisteredIndex(state.name, state.state, state.mapping, state.made)
    has_tail = state.rows or state.rejected
    return SearchState(live, _read_tail(connection, chat_id, after) if has_tail else NO_TAIL)


def _read_tail(connection: Connection, chat_id: int, after: int) -> Tail:
    values = {
        "chat_id": chat_id,
        "after": after,
        "changes": MAX_TAIL_CHANGES + 1,
        "all_changes": MAX_NAMED_CHANGES,
        "partial": PARTIAL_TAIL_ROWS,
    }
    found = connection.execute(TAIL, values).one()
    longest = max(found.rows, len(found.numbers), len(found.rejected))
    complete = found.readable and longest <= MAX_TAIL_CHANGES
    return _make_tail(sorted({*found.numbers, *found.rejected}), complete)


def _make_tail(numbers: Sequence[int], complete: bool) -> Tail:
    """Split sorted numbers into singles and long ranges."""
    singles: list[int] = []
    ranges: list[NumberRange] = []
    start = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            continue
        if end - start < MIN_RANGE_LENGTH:
            singles += numbers[start:end]
        else:
            ranges.append(NumberRange(numbers[start], numbers[end - 1]))
        start = end
    return Tail(singles, ranges, complete)
