"""Reads of many requests in one statement: each takes arrays with a value for each request.

The first column of each row is `nth`, the request's position in the arrays, from 1. A request without a row
asked for something that is not stored, or whose parent is not. Run these on an `AsyncConnection`: it returns
times as PostgreSQL's texts, so that a page of messages need not pass through Python's datetimes.

These are texts, and not SQLAlchemy's expressions: commands that read use them, too (`quick_connection`), and
importing SQLAlchemy takes longer than all else that such a command does.

A statement whose result shows a live count has, next to `nth`, how many of the parent's numbers hold nothing
any more, and the transaction that wrote the parent's row (`xmin`): it is another one if the row has changed.
"""

import re
from collections.abc import Sequence
from typing import Final

from backend.domain.model import CONTENT
from backend.storage.postgres.literals import array_literal, text_array_literal

ReadValues = (
    tuple[str, *tuple[int, ...]]
    | tuple[str, int, str, *tuple[int, ...]]
    | tuple[str, int, str, str, int]
)
"""The values of one request: a token, and numbers; of a search, a token, a chat, a keyword, and numbers; of
candidates, an array's text between the keyword and a number."""

# A grouped search scans so many numbers of its chat, so that it does not hold up the others: at most 1 ms for
# usual texts, 0.1 s if each has 10,000 letters of two bytes or more.
SCANNED_NUMBERS: Final = 2_000
# In bytes: 10,000 characters, unless they fold to more than themselves.
MAX_SCANNED_TEXT: Final = 40_000
# To see whether a chat has a tail: asked for one row, the planner might read the whole outbox.
PROBED_ROWS: Final = 400
# A chat's tail is read with others' if the outbox's rows that name the chat have so many changes, of all
# chats: half a millisecond. Longer ones are for the ordinary route.
MAX_GROUPED_CHANGES: Final = 2_000
_SETTINGS: Final = (
    # A server process whose reader has given up must not wait on; a reader gives up a second earlier.
    "statement_timeout = '5s'",
    "lock_timeout = '5s'",
    # A plan that was made while the tables were small must stay right: no sequential scans.
    "enable_seqscan = off",
    "jit = off",
    "TimeZone = 'UTC'",
    "DateStyle = 'ISO'",
)
_SET_LOCAL: Final = ";".join(f"SET LOCAL {setting}" for setting in _SETTINGS)


class GroupedRead:
    """A statement that serves many requests of one kind. It is prepared once for each session."""

    def __init__(self, name: str, parameters: Sequence[str], statement: str) -> None:
        """`parameters` are the names of the arrays in the statement, in the order of `execute`'s values."""
        self.name = name
        self.statement = statement
        numbered = statement
        for place, parameter in enumerate(parameters, 1):
            numbered = re.sub(rf":{parameter}\b", f"${place}", numbered)
        self.prepare = f"PREPARE {name} AS {numbered}"
        self._execute = f"EXECUTE {name}({', '.join(['%s'] * len(parameters))})"
        places = re.compile(":" + r"\b|:".join(parameters) + r"\b")
        self._order = [parameters.index(place[1:]) for place in places.findall(statement)]
        self._with_settings = f"{_SET_LOCAL};" + places.sub("%s", statement.replace("%", "%%"))

    def execute(
        self, requests: Sequence[ReadValues], *, prepared: bool
    ) -> tuple[str, Sequence[str]]:
        """The statement that serves these requests, and its values.

        Where it is not `prepared`, because the connection has no session, it is a transaction that begins
        with the settings; PostgreSQL plans it each time.
        """
        arrays = [_array(values) for values in zip(*requests, strict=True)]
        if prepared:
            return self._execute, arrays
        return self._with_settings, [arrays[place] for place in self._order]


def _array(values: Sequence[int | str]) -> str:
    return text_array_literal(values) if isinstance(values[0], str) else array_literal(values)  # type: ignore[arg-type]  # all are of one type


# text(): these read worse as expressions. Each LIMIT 1 keeps the planner from joining in another order, so
# that every table is read by its key whatever the statistics say, and rows come in the subqueries' order.
_APPLICATION = """
        CROSS JOIN LATERAL (
            SELECT *, xmin FROM application
            WHERE token = w.token AND removed_at IS NULL LIMIT 1) a"""
_CHAT = f"""{_APPLICATION}
        CROSS JOIN LATERAL (
            SELECT *, xmin FROM chat
            WHERE application_id = a.id AND number = w.chat AND state = 'stored' LIMIT 1) c"""
# What a client wrote of a message: a statement's last columns, in the order of `Message`.
_CONTENT = ", ".join(f"m.{name}" for name in CONTENT)
MESSAGES: Final = GroupedRead(
    "grouped_messages",
    ("tokens", "chats", "numbers"),
    f"""
        SELECT w.nth, m.number, m.created_at, m.updated_at, m.version, {_CONTENT}
        FROM unnest(cast(:tokens AS text[]), cast(:chats AS bigint[]), cast(:numbers AS bigint[]))
            WITH ORDINALITY AS w(token, chat, number, nth)
        {_CHAT}
        CROSS JOIN LATERAL (
            SELECT * FROM message
            WHERE chat_id = c.id AND number = w.number AND state = 'stored' LIMIT 1) m""",
)
# Of a page of messages. NULLIF: few are edited, and to write and read a time takes as long as the rest of it.
_OF_PAGE = f"m.number, m.created_at, nullif(m.updated_at, m.created_at), {_CONTENT}"
# LEFT JOIN: an empty page of a parent that is stored is one row without a number.
PAGES, NEWEST_PAGES = (
    GroupedRead(
        name,
        ("tokens", "chats", "afters", "befores", "limits"),
        f"""
        SELECT w.nth, c.messages_removed, c.xmin, {_OF_PAGE}
        FROM unnest(cast(:tokens AS text[]), cast(:chats AS bigint[]), cast(:afters AS bigint[]),
                    cast(:befores AS bigint[]), cast(:limits AS bigint[]))
            WITH ORDINALITY AS w(token, chat, after, before, "limit", nth)
        {_CHAT}
        LEFT JOIN LATERAL (
            SELECT * FROM message
            WHERE chat_id = c.id AND state = 'stored' AND number > w.after AND number < w.before
            ORDER BY number {direction} LIMIT w."limit") m ON true""",
    )
    for name, direction in (("grouped_pages", "ASC"), ("grouped_newest_pages", "DESC"))
)
# Of a page of a search, with the length of the folded text, because highlighting takes as long. A text whose
# folded form is longer than a usual one is not searched with others: the ordinary route decides about it.
_OF_MATCHES = f"octet_length(m.folded), {_OF_PAGE}"
_MAY_MATCH = (
    f'(octet_length(folded) > {MAX_SCANNED_TEXT} OR strpos(folded COLLATE "C", w.keyword) > 0)'
)
# The matches among the scanned numbers, and whether the chat goes on after them.
SEARCHES: Final = GroupedRead(
    "grouped_searches",
    ("tokens", "chats", "keywords", "afters", "limits"),
    f"""
        SELECT w.nth, rest.is_there, {_OF_MATCHES}
        FROM unnest(cast(:tokens AS text[]), cast(:chats AS bigint[]), cast(:keywords AS text[]),
                    cast(:afters AS bigint[]), cast(:limits AS bigint[]))
            WITH ORDINALITY AS w(token, chat, keyword, after, "limit", nth)
        {_CHAT}
        CROSS JOIN LATERAL (
            SELECT EXISTS (
                SELECT FROM message
                WHERE chat_id = c.id AND number > w.after + {SCANNED_NUMBERS}) AS is_there
            LIMIT 1) rest
        LEFT JOIN LATERAL (
            SELECT * FROM message
            WHERE chat_id = c.id AND state = 'stored' AND {_MAY_MATCH}
                AND number > w.after AND number <= w.after + {SCANNED_NUMBERS}
            ORDER BY number LIMIT w."limit") m ON true""",
)
# What a search reads before it asks the index, as `search_tail` does: the live index, and the chat's tail,
# which is null if it is longer than the limits, or the index has rejected messages of the chat.
SEARCH_STATES: Final = GroupedRead(
    "grouped_search_states",
    ("tokens", "chats", "afters"),
    f"""
        SELECT w.nth, c.id, live.name, t.tail
        FROM unnest(cast(:tokens AS text[]), cast(:chats AS bigint[]), cast(:afters AS bigint[]))
            WITH ORDINALITY AS w(token, chat, after, nth)
        {_CHAT}
        LEFT JOIN LATERAL (SELECT name FROM search_index WHERE state = 'live' LIMIT 1) live ON true
        CROSS JOIN LATERAL (
            WITH named AS MATERIALIZED (
                SELECT chats, numbers, size FROM outbox
                WHERE chats @> ARRAY[c.id] LIMIT {PROBED_ROWS})
            SELECT CASE WHEN (SELECT count(*) < {PROBED_ROWS}
                                     AND coalesce(sum(size), 0) <= {MAX_GROUPED_CHANGES} FROM named)
                             AND NOT EXISTS (
                                 SELECT FROM dead_letter
                                 WHERE kind = 'publish' AND token = w.token AND chat = w.chat)
                   THEN ARRAY(SELECT n.number
                              FROM named, unnest(named.chats, named.numbers) AS n(chat_id, number)
                              WHERE n.chat_id = c.id AND n.number > w.after) END AS tail
            LIMIT 1) t""",
)
# Which candidates contain the keyword, as `filter_candidates` decides. `numbers` are texts of arrays, because
# unnest() takes no arrays of different lengths. Each number is looked up by the key: a condition on all of
# them may be planned as a scan of the chat.
CANDIDATES: Final = GroupedRead(
    "grouped_candidates",
    ("tokens", "chats", "keywords", "numbers", "limits"),
    f"""
        SELECT w.nth, false, {_OF_MATCHES}
        FROM unnest(cast(:tokens AS text[]), cast(:chats AS bigint[]), cast(:keywords AS text[]),
                    cast(:numbers AS text[]), cast(:limits AS bigint[]))
            WITH ORDINALITY AS w(token, chat, keyword, numbers, "limit", nth)
        {_CHAT}
        LEFT JOIN LATERAL (
            SELECT found.* FROM unnest(cast(w.numbers AS bigint[])) AS candidate(number)
            CROSS JOIN LATERAL (
                SELECT * FROM message
                WHERE chat_id = c.id AND number = candidate.number AND state = 'stored'
                    AND {_MAY_MATCH}
                LIMIT 1) found
            ORDER BY found.number LIMIT w."limit") m ON true""",
)
CHATS: Final = GroupedRead(
    "grouped_chats",
    ("tokens", "chats"),
    f"""
        SELECT w.nth, c.messages_removed, c.xmin, c.number, c.created_at, c.updated_at
        FROM unnest(cast(:tokens AS text[]), cast(:chats AS bigint[]))
            WITH ORDINALITY AS w(token, chat, nth)
        {_CHAT}""",
)
CHAT_PAGES: Final = GroupedRead(
    "grouped_chat_pages",
    ("tokens", "afters", "limits"),
    f"""
        SELECT w.nth, a.chats_removed, a.xmin, c.messages_removed, c.xmin, c.number, c.created_at,
               c.updated_at
        FROM unnest(cast(:tokens AS text[]), cast(:afters AS bigint[]), cast(:limits AS bigint[]))
            WITH ORDINALITY AS w(token, after, "limit", nth)
        {_APPLICATION}
        LEFT JOIN LATERAL (
            SELECT *, xmin FROM chat
            WHERE application_id = a.id AND state = 'stored' AND number > w.after
            ORDER BY number LIMIT w."limit") c ON true""",
)
APPLICATIONS: Final = GroupedRead(
    "grouped_applications",
    ("tokens",),
    f"""
        SELECT w.nth, a.chats_removed, a.xmin, coalesce(a.current_token, a.token), a.name, a.created_at,
               a.updated_at, a.version
        FROM unnest(cast(:tokens AS text[])) WITH ORDINALITY AS w(token, nth)
        {_APPLICATION}""",
)
# Pages of `instachat apps list`: the columns of APPLICATIONS, then the original token and the shard.
# `after_tokens` are original tokens, or empty to begin with the first application.
APPLICATION_PAGES: Final = GroupedRead(
    "grouped_application_pages",
    ("after_tokens", "limits"),
    """
        SELECT w.nth, a.chats_removed, a.xmin, coalesce(a.current_token, a.token), a.name, a.created_at,
               a.updated_at, a.version, a.token, a.shard
        FROM unnest(cast(:after_tokens AS text[]), cast(:limits AS bigint[]))
            WITH ORDINALITY AS w(after, "limit", nth)
        LEFT JOIN LATERAL (
            SELECT created_at, id FROM application WHERE token = w.after LIMIT 1) p ON true
        CROSS JOIN LATERAL (
            SELECT *, xmin FROM application
            WHERE (created_at, id) > (coalesce(p.created_at, '-infinity'), coalesce(p.id, 0))
                AND removed_at IS NULL AND (w.after = '' OR p.id IS NOT NULL)
            ORDER BY created_at, id LIMIT w."limit") a""",
)
# What `instachat apps show` adds to an application.
APPLICATION_SETTINGS: Final = GroupedRead(
    "grouped_application_settings",
    ("tokens",),
    f"""
        SELECT w.nth, (SELECT seconds FROM retention WHERE application_id = a.id),
               (SELECT per_second FROM rate_limit WHERE application_id = a.id)
        FROM unnest(cast(:tokens AS text[])) WITH ORDINALITY AS w(token, nth)
        {_APPLICATION}""",
)
# Those of a server's fast path, which prepares them.
ALL: Final = (
    MESSAGES,
    PAGES,
    NEWEST_PAGES,
    CHATS,
    CHAT_PAGES,
    APPLICATIONS,
    SEARCHES,
    SEARCH_STATES,
    CANDIDATES,
)
SETUP: Final = ";".join(
    (
        *(f"SET {setting}" for setting in _SETTINGS),
        "SET plan_cache_mode = force_generic_plan",
        *(each.prepare for each in ALL),
    )
)


_TIME_LENGTH: Final = len("2026-01-31 23:59:59.123456+00")  # shorter if its last decimals are zeros


def to_rfc3339(value: str) -> str:
    """PostgreSQL's text of a time in UTC, as RFC 3339 with microseconds, like `serialization.rfc3339`."""
    if len(value) == _TIME_LENGTH:
        return f"{value[:10]}T{value[11:26]}Z"
    seconds, _, fraction = value.removesuffix("+00").partition(".")
    return f"{seconds[:10]}T{seconds[11:]}.{fraction:0<6}Z"


def all_to_rfc3339(values: Sequence[str]) -> list[str]:
    """As `to_rfc3339`, of a page of times in half of the time, if all have six decimals, as most have."""
    joined = "\n".join(values)
    if len(joined) == len(values) * (_TIME_LENGTH + 1) - 1:  # none is longer
        return joined.replace(" ", "T").replace("+00", "Z").split("\n")
    return [to_rfc3339(value) for value in values]
