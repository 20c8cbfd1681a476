"""Applications as the HTTP API needs them: created once under a key, and listed by token."""

from sqlalchemy import Connection, text

from backend.storage.postgres.catalogue import StoredApplication
from backend.storage.postgres.database import hot

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


def application_position(connection: Connection, token: str) -> int | None:
    """Where an application, removed or not, stands in the order of creation; None if there is none."""
    found: int | None = connection.scalar(APPLICATION_POSITION, {"token": token})
    return found
