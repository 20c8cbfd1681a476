"""Parents: what SQL knows of an application or a chat that numbers are issued under."""

from typing import NamedTuple

from sqlalchemy import Connection

from backend.domain.model import EntryId, Parent
from backend.storage.postgres.statements import hot


class ParentState(NamedTuple):
    """What SQL knows of a parent: its shard's epoch, and if it is there, its children's highest number."""

    epoch: int
    cursor: EntryId
    exists: bool
    removed: bool
    highest: int


APPLICATION_STATE = hot(
    "application_state",
    """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, a.id IS NOT NULL,
           a.removed_at IS NOT NULL,
           coalesce((SELECT max(c.number) FROM chat c WHERE c.application_id = a.id), 0)
    FROM shard s LEFT JOIN application a ON a.token = :token WHERE s.number = :shard""",
)

CHAT_STATE = hot(
    "chat_state",
    """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, c.id IS NOT NULL,
           c.removed_at IS NOT NULL OR a.removed_at IS NOT NULL OR c.state <> 'stored',
           coalesce((SELECT max(m.number) FROM message m WHERE m.chat_id = c.id), 0)
    FROM shard s LEFT JOIN application a ON a.token = :token
    LEFT JOIN chat c ON c.application_id = a.id AND c.number = :chat WHERE s.number = :shard""",
)


def get_parent_state(connection: Connection, shard: int, parent: Parent) -> ParentState:
    """What SQL knows of a parent, in one statement: one snapshot."""
    statement = APPLICATION_STATE if parent.chat is None else CHAT_STATE
    values = {"shard": shard, "token": parent.token, "chat": parent.chat}
    epoch, cursor_epoch, cursor_sequence, exists, removed, highest = connection.execute(
        statement, values if parent.chat is not None else {k: values[k] for k in ("shard", "token")}
    ).one()
    return ParentState(
        epoch, EntryId(cursor_epoch, cursor_sequence), exists, bool(removed), highest
    )
