"""Applications: their rows, read, stored, renamed and removed."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    any_,
    bindparam,
    exists,
    func,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningUpdate

from backend.domain.events import ApplicationStored, from_micros
from backend.domain.model import Application
from backend.storage.postgres.database import Connection
from backend.storage.postgres.rotations import ROTATION_SCHEMA, count_rotation
from backend.storage.postgres.schema import raise_compatible_since
from backend.storage.postgres.statements import (
    NOW_MICROS,
    STORED,
    RowMapper,
    hot,
    row_columns,
    texts,
)
from backend.storage.postgres.tables import TIME, application, chat


class StoredApplication(NamedTuple):
    """An application's row. `chats_removed` counts its chats that hold nothing any more; always exact."""

    id: int
    token: str
    name: str
    chats_removed: int
    created_at: datetime
    updated_at: datetime
    version: int
    shard: int | None
    """None: by its token, among the installation's first shards."""
    current_token: str | None
    """By which its clients name it; None: `token`."""
    xmin: str
    """The transaction that wrote the row."""


class ApplicationPosition(NamedTuple):
    """The place of an application in the order of `created_at`; the id decides between equal times."""

    created_at: datetime
    id: int


BEFORE_ALL = ApplicationPosition(datetime.min.replace(tzinfo=UTC), 0)


class ParentId(NamedTuple):
    """A parent's row: its id, and whether the parent can be read (it and its application are not removed)."""

    id: int
    alive: bool


class _TokenId(NamedTuple):
    token: str
    id: int
    alive: bool


_APPLICATIONS = RowMapper(StoredApplication)
_TOKEN_IDS = RowMapper(_TokenId)
_POSITIONS = RowMapper(ApplicationPosition)
_columns = row_columns(application, StoredApplication)
_alive = application.c.removed_at.is_(None)
APPLICATION = hot(
    "application", select(*_columns).where(application.c.token == bindparam("token"), _alive)
)
APPLICATIONS = hot(
    "applications",
    select(*_columns)
    .where(
        tuple_(application.c.created_at, application.c.id)
        > tuple_(bindparam("after_time", type_=TIME), bindparam("after_id")),
        _alive,
    )
    .order_by(application.c.created_at, application.c.id)
    .limit(bindparam("limit")),
)
APPLICATION_IDS = hot(
    "application_ids",
    select(application.c.token, application.c.id, _alive.label("alive")).where(
        application.c.token == any_(texts("tokens"))
    ),
)
APPLICATION_POSITION = hot(
    "application_position",
    select(application.c.created_at, application.c.id).where(
        application.c.token == bindparam("token")
    ),
)
HAS_CHATS = hot(
    "has_chats",
    select(exists().where(chat.c.application_id == bindparam("id"), chat.c.state == STORED)),
)
INSERT = (
    insert(application)
    .values(version=literal_column(NOW_MICROS))  # and the token, the name and the shard, as given
    .on_conflict_do_nothing(index_elements=["token"])
    .returning(*_columns)
)
# text(): a row as it was before it was changed, of which most values are none of its columns.
AS_CREATED = text(
    """
    SELECT id, token, :name AS name, 0 AS chats_removed, created_at, created_at AS updated_at,
           (extract(epoch FROM created_at) * 1000000)::bigint AS version, shard,
           current_token, xmin
    FROM application WHERE token = :token"""
)
APPLICATION_VERSIONS = hot(
    "application_versions",
    select(application.c.token, application.c.version).where(
        application.c.token == any_(texts("tokens"))
    ),
)
RESTORE = (
    insert(application)
    .values(
        token=bindparam("token"),
        name=bindparam("name"),
        version=bindparam("version"),
        created_at=bindparam("created_at"),
        updated_at=bindparam("updated_at"),
        shard=bindparam("shard"),
        current_token=bindparam("current_token"),
    )
    .on_conflict_do_nothing(index_elements=["token"])
)
RESTORE_NAME = (
    update(application)
    .where(
        application.c.token == bindparam("of_token"),
        application.c.version < bindparam("new_version"),
        _alive,
    )
    .values(
        name=bindparam("new_name"),
        version=bindparam("new_version"),
        updated_at=bindparam("new_time"),
        current_token=bindparam("new_token"),
    )
)


def _change(**values: BindParameter[Any]) -> ReturningUpdate[Any]:
    """Change a living application that still has a version, and give it a higher one."""
    return (
        update(application)
        .where(
            application.c.token == bindparam("of_token"),
            application.c.version == bindparam("old_version"),
            _alive,
        )
        .values(
            **values,
            updated_at=func.now(),
            version=literal_column(f"greatest(version + 1, {NOW_MICROS})"),
        )
        .returning(*_columns)
    )


RENAME = _change(name=bindparam("new_name"))
ROTATE = _change(current_token=bindparam("new_token"))
TOMBSTONE = (
    update(application)
    .where(application.c.id == bindparam("of_id"))
    .values(removed_at=func.now(), updated_at=func.now(), rows_left=True)
)


def get_application(connection: Connection, token: str) -> StoredApplication | None:
    """An application that is not removed."""
    return _APPLICATIONS.one_or_none(connection.execute(APPLICATION, {"token": token}))


def list_applications(
    connection: Connection, after: ApplicationPosition, limit: int
) -> list[StoredApplication]:
    """A page of the applications that are not removed, in the order of `created_at`."""
    values = {"after_time": after.created_at, "after_id": after.id, "limit": limit}
    return _APPLICATIONS.all(connection.execute(APPLICATIONS, values))


def application_position(connection: Connection, token: str) -> ApplicationPosition | None:
    """The place of an application, removed or not, in the order of lists; None if it never existed."""
    return _POSITIONS.one_or_none(connection.execute(APPLICATION_POSITION, {"token": token}))


def application_ids(tx: Connection, tokens: Iterable[str]) -> dict[str, ParentId]:
    """The row of each known token, removed ones included."""
    rows = _TOKEN_IDS.all(tx.execute(APPLICATION_IDS, {"tokens": list(tokens)}))
    return {row.token: ParentId(row.id, row.alive) for row in rows}


def insert_application_once(tx: Connection, token: str, name: str, shard: int) -> StoredApplication:
    """Store a new application; if it exists already, return it as it was when it was created."""
    values = {"token": token, "name": name, "shard": shard}
    created = _APPLICATIONS.one_or_none(tx.execute(INSERT, values))
    return created or _APPLICATIONS.one(tx.execute(AS_CREATED, values))


def application_versions(tx: Connection, tokens: Iterable[str]) -> dict[str, int]:
    """The version of each known application, removed ones included."""
    rows = tx.execute(APPLICATION_VERSIONS, {"tokens": list(tokens)})
    return {row.token: row.version for row in rows}


def restore_application(tx: Connection, event: ApplicationStored, shard: int) -> None:
    """Store an application as it once was, in a shard, unless its row is there and newer, or removed."""
    updated_at = from_micros(event.updated_micros)
    values = {
        "token": event.token,
        "name": event.name,
        "version": event.version,
        "created_at": from_micros(event.created_micros),
        "updated_at": updated_at,
        "shard": shard,
        "current_token": event.current_token,
    }
    if not tx.execute(RESTORE, values).rowcount:
        values = {
            "of_token": event.token,
            "new_name": event.name,
            "new_version": event.version,
            "new_time": updated_at,
            "new_token": event.current_token,
        }
        tx.execute(RESTORE_NAME, values)
    if event.current_token is not None:
        count_rotation(tx)


def rename_application(
    tx: Connection, token: str, name: str, version: int
) -> StoredApplication | None:
    """Rename an application that still has that version; None if it does not."""
    values = {"of_token": token, "new_name": name, "old_version": version}
    return _APPLICATIONS.one_or_none(tx.execute(RENAME, values))


def rotate_token(
    tx: Connection, token: str, new_token: str, version: int
) -> StoredApplication | None:
    """Replace the current token of an application that still has that version; None if it does not.

    `token` is its original one. From then on programs that know no replacement are not admitted.
    """
    values = {"of_token": token, "new_token": new_token, "old_version": version}
    row = _APPLICATIONS.one_or_none(tx.execute(ROTATE, values))
    if row is not None:
        raise_compatible_since(tx, ROTATION_SCHEMA)
        count_rotation(tx)
    return row


def tombstone_application(tx: Connection, id_: int, *, cascade: bool) -> bool:
    """Turn an application into a tombstone; False, changing nothing, if it has chats.

    With `cascade` it may have chats: their rows stay, for `cascade` to delete.
    """
    if not cascade and tx.scalar(HAS_CHATS, {"id": id_}):
        return False
    tx.execute(TOMBSTONE, {"of_id": id_})
    return True


def to_application(row: StoredApplication, chats_count: int) -> Application:
    """The application as its users see it."""
    return Application(
        token=row.current_token or row.token,
        name=row.name,
        chats_count=chats_count,
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
    )
