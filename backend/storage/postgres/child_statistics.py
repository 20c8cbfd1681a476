"""What the rows under a parent add up to, the gaps among them, and how both are repaired."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import text

from backend.domain.model import Parent
from backend.storage.postgres.database import Connection
from backend.storage.postgres.messages import CONTENT
from backend.storage.postgres.statements import CLOCK_MICROS, PAGE, RowMapper, hot


class ChildStatistics(NamedTuple):
    """What a parent's own row says of its children, and what their rows add up to, in one snapshot.

    `issued` and `removed` are its columns. `highest` is the highest number among the `rows` rows, of which
    those in the states `removed_rows`, `dead` and `lost` hold nothing any more.
    """

    token: str
    chat: int | None
    issued: int
    removed: int
    rows: int
    highest: int
    removed_rows: int
    dead: int
    lost: int

    @property
    def parent(self) -> Parent:
        """The parent's name."""
        return Parent(self.token, self.chat)

    @property
    def not_stored(self) -> int:
        """How many rows hold nothing any more."""
        return self.removed_rows + self.dead + self.lost


_STATISTICS_ROWS = RowMapper(ChildStatistics)
# text(), all of these: aggregates of each parent's children, by templates for both kinds of parents.
_STATISTICS = """
    SELECT count(*) AS rows, coalesce(max(number), 0) AS highest,
           count(*) FILTER (WHERE state = 'removed') AS removed_rows,
           count(*) FILTER (WHERE state = 'dead') AS dead,
           count(*) FILTER (WHERE state = 'lost') AS lost"""
_FROM_CHATS = f"""
    CROSS JOIN LATERAL ({_STATISTICS} FROM chat WHERE application_id = a.id) t
    WHERE a.removed_at IS NULL"""
_FROM_MESSAGES = f"""
    CROSS JOIN LATERAL ({_STATISTICS} FROM message WHERE chat_id = c.id) t
    WHERE a.removed_at IS NULL AND c.state = 'stored'"""
_COLUMNS = "t.rows, t.highest, t.removed_rows, t.dead, t.lost"
_APPLICATION = f"""
    SELECT a.token, NULL::bigint AS chat, a.chats_issued AS issued, a.chats_removed AS removed,
           {_COLUMNS} FROM"""
_CHAT = f"""
    SELECT a.token, c.number AS chat, c.messages_issued AS issued, c.messages_removed AS removed,
           {_COLUMNS} FROM"""
_TOKEN_FILTER = " AND (cast(:token AS text) IS NULL OR a.token = :token)"

# Every application, every chat; the rows under each are read by the index, one parent after another.
ALL_APPLICATION_STATISTICS = text(
    f"{_APPLICATION} application a {_FROM_CHATS} {_TOKEN_FILTER} ORDER BY 1"
)
ALL_CHAT_STATISTICS = text(
    f"""
    {_CHAT} application a JOIN chat c ON c.application_id = a.id {_FROM_MESSAGES} {_TOKEN_FILTER}
    ORDER BY 1, 2"""
)
COUNT_KEYS = text(
    f"""
    SELECT (SELECT count(*) FROM application a WHERE a.removed_at IS NULL {_TOKEN_FILTER})
         + coalesce(sum(1 + t.messages + t.documents), 0)
    FROM application a JOIN chat c ON c.application_id = a.id
    CROSS JOIN LATERAL
        (SELECT count(*) AS messages,
                count(*) FILTER (WHERE :documents AND state IN ('stored', 'removed')) AS documents
         FROM message WHERE chat_id = c.id) t
    WHERE a.removed_at IS NULL AND c.state = 'stored' {_TOKEN_FILTER}"""
)
APPLICATION_STATISTICS = hot(
    "application_statistics",
    text(
        f"""
        {_APPLICATION} unnest(cast(:tokens AS text[])) AS wanted(token)
        JOIN application a ON a.token = wanted.token {_FROM_CHATS}"""
    ),
)
CHAT_STATISTICS = hot(
    "chat_statistics",
    text(
        f"""
        {_CHAT} unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
        JOIN application a ON a.token = wanted.token
        JOIN chat c ON c.application_id = a.id AND c.number = wanted.number {_FROM_MESSAGES}"""
    ),
)


def iter_statistics(connection: Connection, token: str | None) -> Iterator[ChildStatistics]:
    """The statistics of every parent alive, or of one application and its chats, read a page at a time.

    Applications come first; each kind in the order of its names.
    """
    for statement in (ALL_APPLICATION_STATISTICS, ALL_CHAT_STATISTICS):
        options = {"yield_per": PAGE}
        rows = connection.execute(statement, {"token": token}, execution_options=options)
        yield from _STATISTICS_ROWS.stream(rows)


def count_keys(connection: Connection, token: str | None, *, documents: bool) -> int:
    """How many parents are alive, and how many messages their chats have.

    With `documents`, a message that is stored or removed counts twice: its row, and its document.
    """
    return int(connection.scalar(COUNT_KEYS, {"token": token, "documents": documents}) or 0)


def find_statistics(
    connection: Connection, parents: Sequence[Parent]
) -> dict[Parent, ChildStatistics]:
    """The statistics of those of these parents that are alive. Each kind is of one snapshot."""
    rows: list[ChildStatistics] = []
    if applications := [token for token, chat in parents if chat is None]:
        result = connection.execute(APPLICATION_STATISTICS, {"tokens": applications})
        rows += _STATISTICS_ROWS.all(result)
    if chats := [(token, chat) for token, chat in parents if chat is not None]:
        values = {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
        rows += _STATISTICS_ROWS.all(connection.execute(CHAT_STATISTICS, values))
    return {row.parent: row for row in rows}


# -- gaps ----------------------------------------------------------------------------------------


class _Children(NamedTuple):
    """The table of a parent's children, and the parent's own."""

    table: str
    key: str
    parent_id: str  # as an expression of :token and :chat
    parent_table: str
    removed_column: str


_PARENT_ID = """(SELECT {0}.id FROM application a LEFT JOIN chat c ON c.application_id = a.id
          AND c.number = cast(:chat AS bigint) WHERE a.token = :token)"""
_CHATS = _Children("chat", "application_id", _PARENT_ID.format("a"), "application", "chats_removed")
_MESSAGES = _Children("message", "chat_id", _PARENT_ID.format("c"), "chat", "messages_removed")
_HAS_DEAD_LETTER = """
    EXISTS (SELECT FROM dead_letter d WHERE d.kind = 'drain' AND d.token = :token
            AND d.chat IS NOT DISTINCT FROM cast(:chat AS bigint) AND d.number = n)"""


def _children_of(parent: Parent) -> _Children:
    return _CHATS if parent.chat is None else _MESSAGES


def find_gaps(connection: Connection, parent: Parent, highest: int) -> Iterator[int]:
    """The numbers below the highest that have neither a row nor a dead letter, in order."""
    children = _children_of(parent)
    statement = text(
        f"""
        SELECT n FROM
            (SELECT lag(number, 1, 0::bigint) OVER (ORDER BY number) + 1 AS first, number - 1 AS last
             FROM {children.table}
             WHERE {children.key} = {children.parent_id} AND number <= :highest) gap
        CROSS JOIN LATERAL generate_series(gap.first, gap.last) n
        WHERE gap.first <= gap.last AND NOT {_HAS_DEAD_LETTER} ORDER BY n"""
    )
    options = {"yield_per": PAGE}
    values = {**parent._asdict(), "highest": highest}
    yield from connection.execute(statement, values, execution_options=options).scalars()


def fill_gaps(tx: Connection, parent: Parent, through: int) -> list[int]:
    """Store a row `lost` for every number up to that one that has neither a row nor a dead letter.

    The caller holds the shard's lock and knows that none of these numbers is still to be stored. Returns
    the numbers.
    """
    children = _children_of(parent)
    columns, values = "created_at, updated_at, state", "now(), now(), 'lost'"
    if parent.chat is not None:
        texts = (*CONTENT, "folded")
        columns += f", version, {', '.join(texts)}"
        values += f", {CLOCK_MICROS}" + ", ''" * len(texts)
    stored = tx.scalars(
        text(
            f"""
            INSERT INTO {children.table} ({children.key}, number, {columns})
            SELECT {children.parent_id}, n, {values} FROM generate_series(1, cast(:through AS bigint)) n
            WHERE NOT {_HAS_DEAD_LETTER}
              AND NOT EXISTS (SELECT FROM {children.table}
                              WHERE {children.key} = {children.parent_id} AND number = n)
            RETURNING number"""
        ),
        {**parent._asdict(), "through": through},
    )
    return list(stored)


def recount_removed(tx: Connection, parent: Parent) -> None:
    """Set a parent's column of removed children to the count of their rows."""
    children = _children_of(parent)
    where = f"WHERE id = {children.parent_id}"
    # The lock comes first, so that the next statement sees all that other transactions have counted.
    tx.execute(text(f"SELECT FROM {children.parent_table} {where} FOR UPDATE"), parent._asdict())
    tx.execute(
        text(
            f"""
            UPDATE {children.parent_table} SET {children.removed_column} =
                (SELECT count(*) FROM {children.table}
                 WHERE {children.key} = {children.parent_id} AND state <> 'stored')
            {where}"""
        ),
        parent._asdict(),
    )
