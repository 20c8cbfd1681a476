"""The shards: how far each log is stored, and in which life of Redis."""

from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from backend.domain.model import EntryId
from backend.storage.postgres.database import sqlstate
from backend.storage.postgres.statements import hot


class LockedShard(NamedTuple):
    """A shard's row, locked until the transaction ends."""

    epoch: int
    cursor: EntryId
    installation: str
    publishing: bool


_LOCK_SHARD = """
    SELECT s.epoch, s.cursor_epoch, s.cursor_sequence, i.id, i.publishing
    FROM shard s, installation i WHERE s.number = :shard FOR UPDATE OF s"""
LOCK_SHARD = hot("lock_shard", _LOCK_SHARD)
LOCK_SHARD_NOW = hot("lock_shard_now", _LOCK_SHARD + " NOWAIT")
SHARD = hot("shard", "SELECT epoch, cursor_epoch, cursor_sequence FROM shard WHERE number = :shard")


def lock_shard(tx: Connection, shard: int, *, wait_seconds: float = 0) -> LockedShard | None:
    """Lock a shard's row for the transaction; None if another holds it for longer than that."""
    try:
        if wait_seconds:
            tx.exec_driver_sql(f"SET LOCAL lock_timeout = {int(wait_seconds * 1000)}")
            row = tx.execute(LOCK_SHARD, {"shard": shard}).one()
        else:
            row = tx.execute(LOCK_SHARD_NOW, {"shard": shard}).one()
    except DBAPIError as error:
        if sqlstate(error) != "55P03":
            raise
        tx.rollback()
        return None
    cursor = EntryId(row.cursor_epoch, row.cursor_sequence)
    return LockedShard(row.epoch, cursor, str(row.id), row.publishing)


def shard_state(connection: Connection, shard: int) -> tuple[int, EntryId]:
    """A shard's epoch and cursor, as committed."""
    row = connection.execute(SHARD, {"shard": shard}).one()
    return row.epoch, EntryId(row.cursor_epoch, row.cursor_sequence)


def shard_states(connection: Connection) -> dict[int, tuple[int, EntryId]]:
    """The epoch and the cursor of every shard, as committed."""
    rows = connection.execute(
        text("SELECT number, epoch, cursor_epoch, cursor_sequence FROM shard")
    )
    return {number: (epoch, EntryId(*cursor)) for number, epoch, *cursor in rows}


def count_stored(connection: Connection) -> int:
    """How many rows drains have stored in all."""
    return int(connection.scalar(text("SELECT sum(stored) FROM shard")) or 0)


def set_epoch(tx: Connection, shard: int, epoch: int) -> None:
    """Begin a new life of a shard; the caller holds its lock."""
    tx.execute(
        text("UPDATE shard SET epoch = :epoch WHERE number = :shard"),
        {"shard": shard, "epoch": epoch},
    )


def advance_cursor(tx: Connection, shard: int, cursor: EntryId, dropped: int, stored: int) -> None:
    """Move a shard's cursor, and count what was dropped and stored; the caller holds its lock."""
    tx.execute(
        text(
            "UPDATE shard SET cursor_epoch = :epoch, cursor_sequence = :sequence,"
            " dropped = dropped + :dropped, stored = stored + :stored, drained_at = now()"
            " WHERE number = :shard"
        ),
        {
            "shard": shard,
            "epoch": cursor.epoch,
            "sequence": cursor.sequence,
            "dropped": dropped,
            "stored": stored,
        },
    )
