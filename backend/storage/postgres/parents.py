"""Parents: what SQL knows of an application or a chat that numbers are issued under."""

from typing import NamedTuple

from sqlalchemy import text

from backend.domain.model import EntryId, Parent
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper, hot


class ParentState(NamedTuple):
    """What SQL knows of a parent, and how far its shard is drained.

    `epoch`, `cursor_epoch` and `cursor_sequence` are the shard's. `highest` is the highest number among the
    parent's children. `placed` is the shard that the application's row names, None also without a row;
    `moves` is how often it has moved. `per_second` is an application's rate limit, None without one, and of a
    chat.
    """

    epoch: int
    cursor_epoch: int
    cursor_sequence: int
    exists: bool
    removed: bool
    highest: int
    placed: int | None
    moves: int
    per_second: int | None

    @property
    def cursor(self) -> EntryId:
        """The log entry up to which the shard is drained."""
        return EntryId(self.cursor_epoch, self.cursor_sequence)


_PARENT_STATES = RowMapper(ParentState)
# text(): a subquery over the children beside outer joins on the parent.
APPLICATION_STATE = hot(
    "application_state",
    text(
        """
        SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, a.id IS NOT NULL AS exists,
               a.removed_at IS NOT NULL AS removed,
               coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0) AS highest,
               a.shard AS placed, coalesce(a.moves, 0) AS moves, l.per_second
        FROM shard s LEFT JOIN application a ON a.token = :token
        LEFT JOIN rate_limit l ON l.application_id = a.id WHERE s.number = :shard"""
    ),
)
CHAT_STATE = hot(
    "chat_state",
    text(
        """
        SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, c.id IS NOT NULL AS exists,
               coalesce(c.removed_at IS NOT NULL OR a.removed_at IS NOT NULL OR c.state <> 'stored',
                        false) AS removed,
               coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0) AS highest,
               a.shard AS placed, coalesce(a.moves, 0) AS moves, NULL::bigint AS per_second
        FROM shard s LEFT JOIN application a ON a.token = :token
        -- Its own row, or that of a range of lost numbers.
        LEFT JOIN LATERAL (SELECT * FROM chat WHERE application_id = a.id AND number >= :chat
                           ORDER BY number LIMIT 1) c ON coalesce(c.first_lost, c.number) <= :chat
        WHERE s.number = :shard"""
    ),
)


def get_parent_state(connection: Connection, shard: int, parent: Parent) -> ParentState:
    """What SQL knows of a parent, in one statement: one snapshot."""
    values: dict[str, object] = {"shard": shard, "token": parent.token}
    if parent.chat is None:
        return _PARENT_STATES.one(connection.execute(APPLICATION_STATE, values))
    return _PARENT_STATES.one(connection.execute(CHAT_STATE, {**values, "chat": parent.chat}))
