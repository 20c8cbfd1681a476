"""The applications whose token was replaced: what clients call them now."""

from sqlalchemy import select, text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.tables import application

ROTATION_SCHEMA = "0020"  # programs of earlier ones accept a token that was replaced
ROTATED = select(application.c.token, application.c.current_token).where(
    application.c.current_token.is_not(None)
)
COUNT_ROTATION = text("UPDATE installation SET rotations = rotations + 1")


def list_rotated(connection: Connection) -> dict[str, str]:
    """The current token of each application that has another one than at first, by its original one."""
    return {row.token: row.current_token for row in connection.execute(ROTATED)}


def count_rotation(tx: Connection) -> None:
    """Record that a current token has changed; until the end, no other transaction can do so."""
    tx.execute(COUNT_ROTATION)
