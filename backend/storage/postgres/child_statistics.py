"""Tallies: what the rows under a parent add up to, the gaps among them, and how both are repaired."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from backend.domain.model import Parent
from backend.storage.postgres.statements import PAGE, hot


class ChildStatistics(NamedTuple):
    """What a parent's own row says of its children, and what their rows add up to, in one snapshot.

    `issued` and `removed` are its columns. `highest` is their highest number; of so many `rows` some hold
    nothing alive any more: those `removed_rows` by a deletion, `dead` and `lost`.
    """

    issued: int
    removed: int
    rows: int
    highest: int
    removed_rows: int
    dead: int
    lost: int

    @property
    def not_stored(self) -> int:
        """How many rows hold nothing alive."""
        return self.removed_rows + self.dead + self.lost


_STATISTICS = """
    SELECT count(*), coalesce(max(number), 0), count(*) FILTER (WHERE state = 'removed'),
           count(*) FILTER (WHERE state = 'dead'), count(*) FILTER (WHERE state = 'lost')"""
_FROM_CHATS = f"""
    CROSS JOIN LATERAL ({_STATISTICS} FROM chat WHERE application_id = a.id) t WHERE a.removed_at IS NULL"""
_FROM_MESSAGES = f"""
    CROSS JOIN LATERAL ({_STATISTICS} FROM message WHERE chat_id = c.id) t
    WHERE a.removed_at IS NULL AND c.state = 'stored'"""
_APPLICATION = "SELECT a.token, NULL, a.chats_issued, a.chats_removed, t.* FROM"
_CHAT = "SELECT a.token, c.number, c.messages_issued, c.messages_removed, t.* FROM"
_TOKEN_FILTER = " AND (cast(:token AS text) IS NULL OR a.token = :token)"

# Every application, every chat; the rows under each come by the index, one parent after another.
ALL_APPLICATION_STATISTICS = text(
    f"{_APPLICATION} application a {_FROM_CHATS} {_TOKEN_FILTER} ORDER BY 1"
)
ALL_CHAT_STATISTICS = text(
    f"""
    {_CHAT} application a JOIN chat c ON c.application_id = a.id {_FROM_MESSAGES} {_TOKEN_FILTER}
    ORDER BY 1, 2"""
)
APPLICATION_STATISTICS = hot(
    "application_statistics",
    f"""
    {_APPLICATION} unnest(cast(:tokens AS text[])) AS wanted(token)
    JOIN application a ON a.token = wanted.token {_FROM_CHATS}""",
)
CHAT_STATISTICS = hot(
    "chat_statistics",
    f"""
    {_CHAT} unnest(cast(:tokens AS text[]), cast(:numbers AS bigint[])) AS wanted(token, number)
    JOIN application a ON a.token = wanted.token
    JOIN chat c ON c.application_id = a.id AND c.number = wanted.number {_FROM_MESSAGES}""",
)


def iter_statistics(
    connection: Connection, token: str | None
) -> Iterator[tuple[Parent, ChildStatistics]]:
    """The tally of every parent alive, or of one application and its chats, read a page at a time.

    Applications come first; each kind in the order of its names.
    """
    for statement in (ALL_APPLICATION_STATISTICS, ALL_CHAT_STATISTICS):
        options = {"yield_per": PAGE}
        for row in connection.execute(statement, {"token": token}, execution_options=options):
            yield Parent(row[0], row[1]), ChildStatistics(*row[2:])


def count_keys(connection: Connection, token: str | None, *, documents: bool) -> int:
    """How many parents are alive, and how many messages their chats have.

    With `documents`, a message that is stored or removed counts twice: its row, and its document.
    """
    found = connection.scalar(
        text(
            f"""
            SELECT (SELECT count(*) FROM application a WHERE a.removed_at IS NULL {_TOKEN_FILTER})
                 + coalesce(sum(1 + t.messages + t.documents), 0)
            FROM application a JOIN chat c ON c.application_id = a.id
            CROSS JOIN LATERAL
                (SELECT count(*) AS messages,
                        count(*) FILTER (WHERE :documents AND state IN ('stored', 'removed')) AS documents
                 FROM message WHERE chat_id = c.id) t
            WHERE a.removed_at IS NULL AND c.state = 'stored' {_TOKEN_FILTER}"""
        ),
        {"token": token, "documents": documents},
    )
    return int(found or 0)


def find_statistics(
    connection: Connection, parents: Sequence[Parent]
) -> dict[Parent, ChildStatistics]:
    """The tallies of those of these parents that are alive. Each kind is of one snapshot."""
    rows: list[Any] = []
    if applications := [token for token, chat in parents if chat is None]:
        rows += connection.execute(APPLICATION_STATISTICS, {"tokens": applications})
    if chats := [(token, chat) for token, chat in parents if chat is not None]:
        values = {"tokens": [token for token, _ in chats], "numbers": [n for _, n in chats]}
        rows += connection.execute(CHAT_STATISTICS, values)
    return {Parent(token, chat): ChildStatistics(*rest) for token, chat, *rest in rows}


# -- gaps ----------------------------------------------------------------------------------------

_HAS_DEAD_LETTER = """
    EXISTS (SELECT FROM dead_letter d WHERE d.kind = 'drain' AND d.token = :token
            AND d.chat IS NOT DISTINCT FROM cast(:chat AS bigint) AND d.number = n)"""
_PARENT_ID = """(SELECT {0}.id FROM application a LEFT JOIN chat c ON c.application_id = a.id
          AND c.number = cast(:chat AS bigint) WHERE a.token = :token)"""
_CHILD_TABLES = {
    False: ("chat", "application_id", _PARENT_ID.format("a")),
    True: ("message", "chat_id", _PARENT_ID.format("c")),
}


def find_gaps(connection: Connection, parent: Parent, highest: int) -> Iterator[int]:
    """The numbers below the highest that have neither a row nor a dead letter, in order."""
    table, key, id_ = _CHILD_TABLES[parent.chat is not None]
    statement = text(
        f"""
        SELECT n FROM
            (SELECT lag(number, 1, 0::bigint) OVER (ORDER BY number) + 1 AS first, number - 1 AS last
             FROM {table} WHERE {key} = {id_} AND number <= :highest) gap
        CROSS JOIN LATERAL generate_series(gap.first, gap.last) n
        WHERE gap.first <= gap.last AND NOT {_HAS_DEAD_LETTER} ORDER BY n"""
    )
    options = {"yield_per": PAGE}
    values = {**parent._asdict(), "highest": highest}
    yield from connection.execute(statement, values, execution_options=options).scalars()


def fill_gaps(tx: Connection, parent: Parent, through: int) -> list[int]:
    """Store a row `lost` for every number up to that one that has neither a row nor a dead letter.

    The caller holds the shard's lock and knows that none of them is on its way. Returns the numbers.
    """
    table, key, id_ = _CHILD_TABLES[parent.chat is not None]
    now, columns, values = (
        "clock_timestamp()",
        "created_at, updated_at, state",
        "now(), now(), 'lost'",
    )
    if parent.chat is not None:
        columns += ", version, text, folded"
        values += f", (extract(epoch FROM {now}) * 1000000)::bigint, '', ''"
    stored = tx.scalars(
        text(
            f"""
            INSERT INTO {table} ({key}, number, {columns})
            SELECT {id_}, n, {values} FROM generate_series(1, cast(:through AS bigint)) n
            WHERE NOT {_HAS_DEAD_LETTER}
              AND NOT EXISTS (SELECT FROM {table} WHERE {key} = {id_} AND number = n)
            RETURNING number"""
        ),
        {**parent._asdict(), "through": through},
    )
    return list(stored)


def recount_removed(tx: Connection, parent: Parent) -> None:
    """Have a parent's `removed` say what its rows say; the row's lock keeps others from counting."""
    table, key, id_ = _CHILD_TABLES[parent.chat is not None]
    owner, column = ("application", "chats_removed")
    if parent.chat is not None:
        owner, column = "chat", "messages_removed"
    tx.execute(
        text(f"SELECT FROM {owner} WHERE id = {id_} FOR UPDATE"), parent._asdict()
    )  # first, so that the next statement sees all that others have counted
    tx.execute(
        text(
            f"UPDATE {owner} SET {column} ="
            f" (SELECT count(*) FROM {table} WHERE {key} = {id_} AND state <> 'stored')"
            f" WHERE id = {id_}"
        ),
        parent._asdict(),
    )


# -- orphans --------------------------------------------------------------------------------------


# -- who else has a number in hand ----------------------------------------------------------------
