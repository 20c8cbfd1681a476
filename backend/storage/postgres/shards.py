"""The shards: up to where each log is stored, and in which epoch of Redis."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, true, update
from sqlalchemy.exc import DBAPIError

from backend.domain.model import EntryId
from backend.storage.postgres.database import Connection, sqlstate
from backend.storage.postgres.schema import refuse_outdated
from backend.storage.postgres.statements import hot
from backend.storage.postgres.tables import installation, shard


class ShardState(NamedTuple):
    """A shard's epoch, and the log entry up to which it is drained."""

    epoch: int
    cursor: EntryId


class LockedShard(NamedTuple):
    """A shard's row, locked until the transaction ends; `numbers` were stored or dropped by drains."""

    epoch: int
    cursor: EntryId
    numbers: int
    installation: str
    publishing: bool


class DrainedShard(NamedTuple):
    """How far a shard was drained, as committed; `numbers` were stored or dropped by drains."""

    epoch: int
    cursor: EntryId
    numbers: int


class Rewind(NamedTuple):
    """When SQL was last found to have gone back in time, and how many numbers were lost by that, ever."""

    at: datetime
    lost: int


_columns = (shard.c.epoch, shard.c.cursor_epoch, shard.c.cursor_sequence)
_numbers = (shard.c.stored + shard.c.dropped).label("numbers")
_number = shard.c.number == bindparam("shard")
_lock = (
    select(
        *_columns,
        _numbers,
        installation.c.id,
        installation.c.publishing,
        installation.c.compatible_since,
    )
    .join_from(shard, installation, true())
    .where(_number)
)
LOCK_SHARD = hot("lock_shard", _lock.with_for_update(of=shard))
LOCK_SHARD_NOW = hot("lock_shard_now", _lock.with_for_update(of=shard, nowait=True))
SHARD = hot("shard", select(*_columns).where(_number))
SHARDS = select(shard.c.number, *_columns, _numbers)
COUNT_STORED = select(func.sum(shard.c.stored))
SET_EPOCH = update(shard).where(_number).values(epoch=bindparam("new_epoch"))
RECORD_REWIND = update(shard).where(_number).values(rewound_at=func.now())
COUNT_LOST = (
    update(shard)
    .where(_number)
    .values(lost=shard.c.lost + bindparam("newly_lost"), rewound_at=func.now())
)
LAST_REWIND = select(func.max(shard.c.rewound_at).label("at"), func.sum(shard.c.lost).label("lost"))
ADVANCE_CURSOR = (
    update(shard)
    .where(_number)
    .values(
        cursor_epoch=bindparam("new_cursor_epoch"),
        cursor_sequence=bindparam("new_cursor_sequence"),
        dropped=shard.c.dropped + bindparam("newly_dropped"),
        stored=shard.c.stored + bindparam("newly_stored"),
        drained_at=func.now(),
    )
    .returning(_numbers)
)


def lock_shard(tx: Connection, shard: int, *, wait_seconds: float = 0) -> LockedShard | None:
    """Lock a shard's row until the transaction ends; None if another holds it for longer than that.

    Raises SchemaMismatch if the database does not admit this program any more.
    """
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
    if mismatch := refuse_outdated(row.compatible_since):
        raise mismatch
    cursor = EntryId(row.cursor_epoch, row.cursor_sequence)
    return LockedShard(row.epoch, cursor, row.numbers, str(row.id), row.publishing)


def shard_state(connection: Connection, shard: int) -> ShardState:
    """A shard's state, as committed."""
    row = connection.execute(SHARD, {"shard": shard}).one()
    return ShardState(row.epoch, EntryId(row.cursor_epoch, row.cursor_sequence))


def shard_states(connection: Connection) -> dict[int, ShardState]:
    """The state of every shard, as committed."""
    return {
        row.number: ShardState(row.epoch, EntryId(row.cursor_epoch, row.cursor_sequence))
        for row in connection.execute(SHARDS)
    }


def drained_shards(connection: Connection) -> dict[int, DrainedShard]:
    """How far every shard was drained, as committed."""
    return {
        row.number: DrainedShard(
            row.epoch, EntryId(row.cursor_epoch, row.cursor_sequence), row.numbers
        )
        for row in connection.execute(SHARDS)
    }


def count_stored(connection: Connection) -> int:
    """How many rows all drains have stored."""
    return int(connection.scalar(COUNT_STORED) or 0)


def set_epoch(tx: Connection, shard: int, epoch: int) -> None:
    """Begin a new epoch of a shard; the caller holds its lock."""
    tx.execute(SET_EPOCH, {"shard": shard, "new_epoch": epoch})


def record_rewind(tx: Connection, shard: int) -> None:
    """Record that SQL has forgotten what it had stored of a shard; the caller holds its lock."""
    tx.execute(RECORD_REWIND, {"shard": shard})


def count_lost(tx: Connection, shard: int, numbers: int) -> None:
    """Record that so many numbers are neither in SQL nor in the log; the caller holds the shard's lock."""
    tx.execute(COUNT_LOST, {"shard": shard, "newly_lost": numbers})


def last_rewind(connection: Connection) -> Rewind | None:
    """The last time that SQL was found to have gone back, and what is lost in all; None if it never was."""
    row = connection.execute(LAST_REWIND).one()
    return None if row.at is None else Rewind(row.at, int(row.lost))


def advance_cursor(tx: Connection, shard: int, cursor: EntryId, dropped: int, stored: int) -> int:
    """Move a shard's cursor, and count what was dropped and stored; the caller holds its lock.

    Returns how many numbers all drains of the shard have stored or dropped by now.
    """
    values = {
        "shard": shard,
        "new_cursor_epoch": cursor.epoch,
        "new_cursor_sequence": cursor.sequence,
        "newly_dropped": dropped,
        "newly_stored": stored,
    }
    return int(tx.execute(ADVANCE_CURSOR, values).scalar_one())
