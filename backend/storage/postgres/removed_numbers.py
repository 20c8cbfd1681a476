"""How many numbers of each parent hold nothing any more, and whether that has changed since it was read."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import any_, select

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper, bigints, hot, xmin_of
from backend.storage.postgres.tables import application, chat


class RemovedNumbers(NamedTuple):
    """Of a parent's row: its id, how many of its numbers hold nothing, and the transaction that wrote it.

    If a row was written by the same transaction at two moments, it has not changed in between.
    """

    id: int
    removed: int
    xmin: str


_REMOVED = RowMapper(RemovedNumbers)
OF_APPLICATIONS = hot(
    "removed_chats",
    select(
        application.c.id, application.c.chats_removed.label("removed"), xmin_of(application)
    ).where(application.c.id == any_(bigints("ids"))),
)
OF_CHATS = hot(
    "removed_messages",
    select(chat.c.id, chat.c.messages_removed.label("removed"), xmin_of(chat)).where(
        chat.c.id == any_(bigints("ids"))
    ),
)


def removed_chats(connection: Connection, ids: Sequence[int]) -> dict[int, RemovedNumbers]:
    """Those of applications, deleted ones included, by id."""
    rows = _REMOVED.all(connection.execute(OF_APPLICATIONS, {"ids": list(ids)}))
    return {row.id: row for row in rows}


def removed_messages(connection: Connection, ids: Sequence[int]) -> dict[int, RemovedNumbers]:
    """Those of chats, deleted ones included, by id."""
    rows = _REMOVED.all(connection.execute(OF_CHATS, {"ids": list(ids)}))
    return {row.id: row for row in rows}
