"""What the rows under a parent add up to."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import text

from backend.domain.model import Parent
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import PAGE, RowMapper, hot


class ChildStatistics(NamedTuple):
    """What a parent's own row says of its children, and what their rows add up to, in one snapshot.

    `issued` and `removed` are its columns. `highest` is the highest number among the `rows` rows, of which
    those in the states `removed_rows`, `dead` and `lost_rows` hold nothing any more. `in_ranges` are the
    numbers without a row for which another row stands (see `gaps`).
    """

    token: str
    chat: int | None
    issued: int
    removed: int
    rows: int
    highest: int
    removed_rows: int
    dead: int
    lost_rows: int
    in_ranges: int

    @property
    def parent(self) -> Parent:
        """The parent's name."""
        return Parent(self.token, self.chat)

    @property
    def not_stored(self) -> int:
        """How many numbers hold nothing any more."""
        return self.removed_rows + self.dead + self.lost

    @property
    def lost(self) -> int:
        """How many numbers were issued, or left out by an import, and have no child anywhere."""
        return self.lost_rows + self.in_ranges

    @property
    def is_dense(self) -> bool:
        """Whether each number up to the highest is stored, or known to hold nothing."""
        return self.rows + self.in_ranges == self.highest


_STATISTICS_ROWS = RowMapper(ChildStatistics)
# text(), all of these: aggregates of each parent's children, by templates for both kinds of parents.
_STATISTICS = """
    SELECT count(*) AS rows, coalesce(max(number), 0) AS highest,
           count(*) FILTER (WHERE state = 'removed') AS removed_rows,
           count(*) FILTER (WHERE state = 'dead') AS dead,
           count(*) FILTER (WHERE state = 'lost') AS lost_rows,
           coalesce(sum(number - first_lost), 0)::bigint AS in_ranges"""
_FROM_CHATS = f"""
    CROSS JOIN LATERAL ({_STATISTICS} FROM chat WHERE application_id = a.id) t
    WHERE a.removed_at IS NULL"""
_FROM_MESSAGES = f"""
    CROSS JOIN LATERAL ({_STATISTICS} FROM message WHERE chat_id = c.id) t
    WHERE a.removed_at IS NULL AND c.state = 'stored'"""
_COLUMNS = "t.rows, t.highest, t.removed_rows, t.dead, t.lost_rows, t.in_ranges"
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
