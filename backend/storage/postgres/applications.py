"""Applications: their rows, read, stored, renamed and removed."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.domain.model import Application
from backend.storage.postgres.statements import hot


class StoredApplication(NamedTuple):
    """An application's row; `removed` counts its chats that are gone."""

    id: int
    token: str
    name: str
    removed: int
    created_at: datetime
    updated_at: datetime
    version: int


_APPLICATION = """
    SELECT id, token, name, chats_removed AS removed, created_at, updated_at, version
    FROM application"""

APPLICATION = hot("application", _APPLICATION + " WHERE token = :token AND removed_at IS NULL")

APPLICATIONS = hot(
    "applications",
    _APPLICATION + " WHERE id > :after AND removed_at IS NULL ORDER BY id LIMIT :limit",
)

APPLICATION_IDS = hot(
    "application_ids",
    "SELECT token, id, removed_at IS NULL FROM application"
    " WHERE token = ANY(cast(:tokens AS text[]))",
)

HAS_CHATS = hot(
    "has_chats",
    "SELECT EXISTS (SELECT FROM chat WHERE application_id = :id AND state = 'stored')",
)

_CREATED = "(extract(epoch FROM created_at) * 1000000)::bigint"

APPLICATION_POSITION = hot(
    "application_position", "SELECT id FROM application WHERE token = :token"
)


def insert_application_once(tx: Connection, token: str, name: str) -> StoredApplication:
    """Store a new application; one that is there already is given as it was when it was created."""
    row = tx.execute(
        text(
            "INSERT INTO application (token, name, version)"
            " VALUES (:token, :name, (extract(epoch FROM now()) * 1000000)::bigint)"
            " ON CONFLICT (token) DO NOTHING"
            " RETURNING id, token, name, chats_removed, created_at, updated_at, version"
        ),
        {"token": token, "name": name},
    ).one_or_none()
    if row is None:
        row = tx.execute(
            text(
                f"SELECT id, token, :name, 0, created_at, created_at, {_CREATED}"
                " FROM application WHERE token = :token"
            ),
            {"token": token, "name": name},
        ).one()
    return StoredApplication(*row)


def get_application(connection: Connection, token: str) -> StoredApplication | None:
    """An application that is not removed."""
    row = connection.execute(APPLICATION, {"token": token}).one_or_none()
    return None if row is None else StoredApplication(*row)


def list_applications(connection: Connection, after: int, limit: int) -> list[StoredApplication]:
    """A page of applications in the order of their creation; `after` is the last one's id."""
    rows = connection.execute(APPLICATIONS, {"after": after, "limit": limit})
    return [StoredApplication(*row) for row in rows]


def application_position(connection: Connection, token: str) -> int | None:
    """Where an application, removed or not, stands in the order of creation; None if there is none."""
    found: int | None = connection.scalar(APPLICATION_POSITION, {"token": token})
    return found


def application_ids(tx: Connection, tokens: Iterable[str]) -> dict[str, tuple[int, bool]]:
    """For each known token the application's id, and whether it is alive."""
    rows = tx.execute(APPLICATION_IDS, {"tokens": list(tokens)})
    return {token: (id_, alive) for token, id_, alive in rows}


def rename_application(
    tx: Connection, token: str, name: str, version: int
) -> StoredApplication | None:
    """Rename an application that still has that version; None if it hasn't."""
    row = tx.execute(
        text(
            "UPDATE application SET name = :name, updated_at = now(),"
            " version = greatest(version + 1, (extract(epoch FROM now()) * 1000000)::bigint)"
            " WHERE token = :token AND version = :version AND removed_at IS NULL"
            " RETURNING id, token, name, chats_removed, created_at, updated_at, version"
        ),
        {"token": token, "name": name, "version": version},
    ).one_or_none()
    return None if row is None else StoredApplication(*row)


def tombstone_application(tx: Connection, id_: int, *, cascade: bool) -> bool:
    """Leave a tombstone for an application; False, changing nothing, if it has chats.

    With `cascade` it may have some. What belonged to it is left to be dropped (see `removal`).
    """
    if not cascade and tx.scalar(HAS_CHATS, {"id": id_}):
        return False
    tx.execute(
        text(
            "UPDATE application SET removed_at = now(), updated_at = now(), rows_left = true"
            " WHERE id = :id"
        ),
        {"id": id_},
    )
    return True


def to_application(row: StoredApplication, chats_count: int) -> Application:
    """The row as its users see it."""
    return Application(
        row.token,
        row.name,
        chats_count,
        row.created_at,
        row.updated_at,
        row.version,
    )
