"""The shards: up to where each log is stored, and in which epoch of Redis."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

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


class ShardProgress(NamedTuple):
    """How far a shard is stored.

    Everything up to `cursor` is decided: stored, dropped or a dead letter. So is what follows up to `ahead`,
    but for the entries of `deferred` applications, by token: of each of them, those up to its own position.
    """

    cursor: EntryId
    ahead: EntryId
    deferred: Mapping[str, EntryId]

    @classmethod
    def of(cls, ahead: EntryId, deferred: Mapping[str, EntryId]) -> "ShardProgress":
        """The progress that these positions amount to."""
        return cls(min([ahead, *deferred.values()]), ahead, deferred)

    def position(self, token: str | None) -> EntryId:
        """The entry up to which an application's entries are decided; None stands for all applications."""
        return self.cursor if token is None else self.deferred.get(token, self.ahead)


class LockedShard(NamedTuple):
    """A shard's row, locked until the transaction ends; `numbers` were stored or dropped by drains."""

    epoch: int
    progress: ShardProgress
    numbers: int
    installation: str
    publishing: bool

    @property
    def cursor(self) -> EntryId:
        """The entry up to which everything is decided."""
        return self.progress.cursor


class DrainedShard(NamedTuple):
    """How far a shard was drained, as committed; `numbers` were stored or dropped by drains.

    If it is `exact`, that is the number up to the cursor; otherwise some were ahead of it.
    """

    epoch: int
    cursor: EntryId
    numbers: int
    exact: bool


class Rewind(NamedTuple):
    """When SQL was last found to have gone back in time, and how many numbers were lost by that, ever."""

    at: datetime
    lost: int


_columns = (shard.c.epoch, shard.c.cursor_epoch, shard.c.cursor_sequence)
_progress = (*_columns, shard.c.ahead_epoch, shard.c.ahead_sequence, shard.c.deferred)
_numbers = (shard.c.stored + shard.c.dropped).label("numbers")
_number = shard.c.number == bindparam("shard")
_lock = (
    select(
        *_progress,
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
PROGRESS = hot("shard_progress", select(*_progress).where(_number))
ALL_PROGRESS = select(shard.c.number, *_progress, _numbers)
COUNT_STORED = select(func.sum(shard.c.stored))
SET_EPOCH = (
    update(shard)
    .where(_number)
    .values(epoch=bindparam("new_epoch"), epoch_server=bindparam("server"))
)
EPOCH_SERVERS = select(shard.c.epoch_server).where(shard.c.epoch > 0).distinct()
RECORD_REWIND = update(shard).where(_number).values(rewound_at=func.now())
COUNT_LOST = (
    update(shard)
    .where(_number)
    .values(lost=shard.c.lost + bindparam("newly_lost"), rewound_at=func.now())
)
LAST_REWIND = select(func.max(shard.c.rewound_at).label("at"), func.sum(shard.c.lost).label("lost"))
ADVANCE = (
    update(shard)
    .where(_number)
    .values(
        cursor_epoch=bindparam("new_cursor_epoch"),
        cursor_sequence=bindparam("new_cursor_sequence"),
        ahead_epoch=bindparam("new_ahead_epoch"),
        ahead_sequence=bindparam("new_ahead_sequence"),
        deferred=bindparam("new_deferred"),
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
    return LockedShard(row.epoch, _to_progress(row), row.numbers, str(row.id), row.publishing)


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


def shard_progress(connection: Connection, shard: int) -> ShardProgress:
    """How far a shard is stored, as committed."""
    return _to_progress(connection.execute(PROGRESS, {"shard": shard}).one())


def all_progress(connection: Connection) -> dict[int, ShardProgress]:
    """How far every shard is stored, as committed."""
    return {row.number: _to_progress(row) for row in connection.execute(ALL_PROGRESS)}


def drained_shards(connection: Connection) -> dict[int, DrainedShard]:
    """How far every shard was drained, as committed."""
    found = {}
    for row in connection.execute(ALL_PROGRESS):
        progress = _to_progress(row)
        exact = progress.cursor == progress.ahead
        found[row.number] = DrainedShard(row.epoch, progress.cursor, row.numbers, exact)
    return found


def count_stored(connection: Connection) -> int:
    """How many rows all drains have stored."""
    return int(connection.scalar(COUNT_STORED) or 0)


def set_epoch(tx: Connection, shard: int, epoch: int, server: str) -> None:
    """Begin a new epoch of a shard, in that server; the caller holds its lock."""
    tx.execute(SET_EPOCH, {"shard": shard, "new_epoch": epoch, "server": server})


def epoch_servers(connection: Connection) -> set[str | None]:
    """The servers in which the shards' current epochs began; empty if no epoch ever began.

    None stands for epochs of earlier releases, which did not record it.
    """
    return set(connection.scalars(EPOCH_SERVERS))


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


def advance(tx: Connection, shard: int, progress: ShardProgress, dropped: int, stored: int) -> int:
    """Move a shard's positions, and count what was dropped and stored; the caller holds its lock.

    Returns how many numbers all drains of the shard have stored or dropped by now.
    """
    values = {
        "shard": shard,
        "new_cursor_epoch": progress.cursor.epoch,
        "new_cursor_sequence": progress.cursor.sequence,
        "new_ahead_epoch": progress.ahead.epoch,
        "new_ahead_sequence": progress.ahead.sequence,
        "new_deferred": {token: str(entry) for token, entry in progress.deferred.items()},
        "newly_dropped": dropped,
        "newly_stored": stored,
    }
    return int(tx.execute(ADVANCE, values).scalar_one())


def _to_progress(row: Any) -> ShardProgress:
    """The progress of a row. A program of an earlier schema may have moved its cursor alone."""
    cursor = EntryId(row.cursor_epoch, row.cursor_sequence)
    if cursor.epoch != row.epoch:
        # What this Redis has behind the cursor need not be what was stored ahead of it in an earlier epoch.
        return ShardProgress(cursor, cursor, {})
    ahead = max(cursor, EntryId(row.ahead_epoch, row.ahead_sequence))
    deferred = {token: max(cursor, EntryId.parse(entry)) for token, entry in row.deferred.items()}
    return ShardProgress.of(ahead, deferred)
