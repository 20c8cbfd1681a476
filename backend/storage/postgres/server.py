"""The PostgreSQL server itself: its version and the settings that durability depends on."""

from typing import NamedTuple

from sqlalchemy import text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.statements import RowMapper


class ServerVersion(NamedTuple):
    """The version as PostgreSQL writes it, and as a number to compare: 180003 for 18.3."""

    text: str
    number: int


class ServerSettings(NamedTuple):
    """Settings of the server, as they are in this session."""

    fsync: str
    full_page_writes: str
    server_encoding: str
    synchronous_commit: str


_VERSION = text(
    "SELECT current_setting('server_version') AS text,"
    " current_setting('server_version_num')::integer AS number"
)
_SETTINGS = text(
    "SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in ServerSettings._fields)
)


def server_version(connection: Connection) -> ServerVersion:
    """The server's version."""
    return RowMapper(ServerVersion).one(connection.execute(_VERSION))


def read_settings(connection: Connection) -> ServerSettings:
    """The settings that `ServerSettings` names."""
    return RowMapper(ServerSettings).one(connection.execute(_SETTINGS))
