"""Placements: the shard that each application is in, and how it is moved to another one.

A row that names no shard was stored by a program of an earlier schema: its application is where the hash of
its token among the installation's first shards puts it, until it is moved.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import any_, bindparam, select, text

from backend.domain.model import EntryId
from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import STORED, RowMapper, field_names, hot, texts
from backend.storage.postgres.tables import application, chat

PAGE = 1_000
RESHARD_LEASE = "reshard"
RESHARD_SCHEMA = "0014"  # programs of earlier ones look for each application by its token's hash


class PlacementRow(NamedTuple):
    """Where an application is: `shard` is None if its row names none. `moves` counts its moves.

    `moved_from` are the shards that it has left, the last one last, until they are forgotten. `moved_at` is
    when it left that, and `moved_epoch` and `moved_sequence` name the entry of that shard's log behind which
    nothing of it comes.
    """

    id: int
    token: str
    shard: int | None
    moves: int
    moved_from: Sequence[int]
    moved_at: datetime | None
    moved_epoch: int
    moved_sequence: int

    @property
    def moved_through(self) -> EntryId:
        """That entry; 0-0 if the application has never moved."""
        return EntryId(self.moved_epoch, self.moved_sequence)


class ShardRange(NamedTuple):
    """The shards over which tokens are hashed."""

    first: int
    size: int

    @property
    def shards(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.size)


class ReshardState(NamedTuple):
    """The range that a reshard moves to; None if none is under way. `shards` are hashed over until it ends.

    `to_move` is how many applications it had left to move when it last counted them, a second ago at most if
    it is running; None if it has not counted yet.
    """

    target: ShardRange | None
    shards: int
    to_move: int | None
    highest_shard: int


_PLACEMENTS = RowMapper(PlacementRow)
_columns = [application.c[name] for name in field_names(PlacementRow)]
PLACEMENTS = hot(
    "placements", select(*_columns).where(application.c.token == any_(texts("tokens")))
)
PLACEMENTS_PAGE = hot(
    "placements_page",
    select(*_columns)
    .where(application.c.id > bindparam("after"), application.c.removed_at.is_(None))
    .order_by(application.c.id)
    .limit(bindparam("limit")),
)
COUNTERS_LEFT = hot(
    "counters_left",
    select(*_columns).where(application.c.counters_left).order_by(application.c.id).limit(PAGE),
)
MOVED_BEFORE = hot(
    "moved_before",
    select(*_columns)
    .where(
        application.c.moved_from != text("'{}'"),
        application.c.moved_at < text("now() - make_interval(secs => :seconds)"),
        application.c.counters_left.is_(False),
    )
    .order_by(application.c.moved_at)
    .limit(PAGE),
)
CHAT_NUMBERS = hot(
    "chat_numbers",
    select(chat.c.number)
    .where(
        chat.c.state == STORED,
        chat.c.application_id
        == select(application.c.id)
        .where(application.c.token == bindparam("token"))
        .scalar_subquery(),
        chat.c.number > bindparam("after"),
    )
    .order_by(chat.c.number)
    .limit(bindparam("limit")),
)
# text(), all of these: values that are computed from the row as it was.
MOVE = text(
    """
    UPDATE application
    SET shard = :shard, moves = :move, moved_at = now(), counters_left = true,
        moved_from = array_append(moved_from, cast(:origin AS smallint)),
        moved_epoch = :epoch, moved_sequence = :sequence
    WHERE token = :token AND coalesce(shard, :initial) = :origin AND moves < :move"""
)
RECEIVE = text(
    """
    UPDATE application
    SET shard = :shard, moves = :move, moved_at = now(), counters_left = true,
        moved_from = array_append(moved_from, cast(:origin AS smallint)),
        moved_epoch = :epoch, moved_sequence = :sequence
    WHERE token = :token AND moves < :move"""
)
RECORD_MOVE = text(
    """
    UPDATE installation SET moved_at = now()
    WHERE moved_at IS NULL OR moved_at < now() - interval '1 minute'"""
)
CLEAR_COUNTERS_LEFT = text(
    "UPDATE application SET counters_left = false WHERE token = :token AND moves = :moves"
)
FORGET_MOVES = text(
    """
    UPDATE application a SET moved_from = '{}'
    FROM unnest(cast(:tokens AS text[]), cast(:moves AS bigint[])) AS m (token, moves)
    WHERE a.token = m.token AND a.moves = m.moves"""
)
ADD_SHARDS = text(
    """
    INSERT INTO shard (number) SELECT unnest(cast(:numbers AS smallint[])) ON CONFLICT DO NOTHING"""
)
SET_TARGET = text("UPDATE installation SET target_first_shard = :first, target_shards = :size")
FINISH = text(
    """
    UPDATE installation
    SET hash_first_shard = :first, hash_shards = :size, target_first_shard = NULL, target_shards = NULL"""
)
RECORD_TO_MOVE = text(
    """
    INSERT INTO reshard (to_move) VALUES (:count)
    ON CONFLICT (singleton) DO UPDATE SET to_move = excluded.to_move"""
)
FORGET_TO_MOVE = text("DELETE FROM reshard")
STATE = text(
    """
    SELECT target_first_shard, target_shards, coalesce(hash_shards, shards) AS shards,
           (SELECT to_move FROM reshard) AS to_move, (SELECT max(number) FROM shard) AS highest_shard
    FROM installation"""
)


def find_placements(connection: Connection, tokens: Iterable[str]) -> dict[str, PlacementRow]:
    """The placement of each known application, removed ones included."""
    rows = _PLACEMENTS.all(connection.execute(PLACEMENTS, {"tokens": list(tokens)}))
    return {row.token: row for row in rows}


def page_placements(connection: Connection, after: int) -> list[PlacementRow]:
    """A page of the placements of applications that are not removed; `after` is the previous one's id."""
    values = {"after": after, "limit": PAGE}
    return _PLACEMENTS.all(connection.execute(PLACEMENTS_PAGE, values))


def list_counters_left(connection: Connection) -> list[PlacementRow]:
    """Some applications that may have counters in the shard that they have left."""
    return _PLACEMENTS.all(connection.execute(COUNTERS_LEFT))


def page_chat_numbers(connection: Connection, token: str, after: int, limit: int) -> list[int]:
    """The next numbers of an application's chats that are not removed."""
    values = {"token": token, "after": after, "limit": limit}
    return [row.number for row in connection.execute(CHAT_NUMBERS, values)]


def clear_counters_left(tx: Connection, token: str, moves: int) -> None:
    """Record that an application has no counters in a shard that it has left, unless it moved again."""
    tx.execute(CLEAR_COUNTERS_LEFT, {"token": token, "moves": moves})


def list_moved_before(connection: Connection, seconds: float) -> list[PlacementRow]:
    """Some applications whose last move is longer ago than that, and whose earlier shards are known."""
    return _PLACEMENTS.all(connection.execute(MOVED_BEFORE, {"seconds": seconds}))


def forget_moves(tx: Connection, rows: Iterable[PlacementRow]) -> None:
    """Forget which shards these applications have left, but for those that have moved again since."""
    values = [(row.token, row.moves) for row in rows]
    tokens, moves = zip(*values, strict=True) if values else ((), ())
    tx.execute(FORGET_MOVES, {"tokens": list(tokens), "moves": list(moves)})


def move_application(
    tx: Connection,
    token: str,
    *,
    origin: int,
    initial: int,
    shard: int,
    move: int,
    through: EntryId,
) -> bool:
    """Move an application from `origin` to `shard`; returns False if it is not there, or has moved since.

    The caller holds the lock of `origin`. `initial` is its shard if its row names none; `move` counts its
    moves, this one included. `through` is the entry of the origin's log that says so.
    """
    values = {
        "token": token,
        "origin": origin,
        "initial": initial,
        "shard": shard,
        "move": move,
        "epoch": through.epoch,
        "sequence": through.sequence,
    }
    moved = bool(tx.execute(MOVE, values).rowcount)
    if moved:
        tx.execute(RECORD_MOVE)
    return moved


def receive_application(
    tx: Connection, token: str, *, origin: int, shard: int, move: int, through: EntryId
) -> None:
    """Place an application in a shard, whose log proves that it came there by that move, unless it moved on.

    For a SQL that has forgotten the move, and whose origin's log has lost it.
    """
    values = {
        "token": token,
        "origin": origin,
        "shard": shard,
        "move": move,
        "epoch": through.epoch,
        "sequence": through.sequence,
    }
    if tx.execute(RECEIVE, values).rowcount:
        tx.execute(RECORD_MOVE)


def add_shards(tx: Connection, numbers: Iterable[int]) -> None:
    """Add the rows of shards that have none."""
    tx.execute(ADD_SHARDS, {"numbers": list(numbers)})


def set_target(tx: Connection, target: ShardRange) -> None:
    """Record which range a reshard moves the applications to."""
    tx.execute(SET_TARGET, target._asdict())


def record_to_move(tx: Connection, count: int) -> None:
    """Record how many applications a reshard has left to move."""
    tx.execute(RECORD_TO_MOVE, {"count": count})


def finish_reshard(tx: Connection, target: ShardRange) -> None:
    """Hash tokens over this range from now on, and end the reshard."""
    tx.execute(FINISH, target._asdict())
    tx.execute(FORGET_TO_MOVE)


def reshard_state(connection: Connection) -> ReshardState:
    """Whether a reshard is under way."""
    row = connection.execute(STATE).one()
    target = (
        None
        if row.target_first_shard is None
        else ShardRange(row.target_first_shard, row.target_shards)
    )
    return ReshardState(target, row.shards, row.to_move, row.highest_shard)
