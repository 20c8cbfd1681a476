"""What all connections to PostgreSQL share, with SQLAlchemy, which is not imported here, and without it."""

from typing import Any

from psycopg2 import extensions

from backend.domain.errors import EngineDown, Failed
from backend.settings import redact

Rows = list[tuple[Any, ...]]
CONNECT_TIMEOUT_SECONDS = 3
# After which a connection to a host that is not reached any more is given up; without these the kernel waits
# for a quarter of an hour, or for two hours if nothing was being sent.
LOST_CONNECTION_SECONDS = 15
LOST_CONNECTION_OPTIONS = {
    "tcp_user_timeout": f"{LOST_CONNECTION_SECONDS * 1_000}",  # of what the host has not acknowledged
    "keepalives_idle": f"{LOST_CONNECTION_SECONDS // 3}",
    "keepalives_interval": f"{LOST_CONNECTION_SECONDS // 3}",
    "keepalives_count": "2",
}
_TIMESTAMPTZ = 1184  # the type's object id
TIME_AS_TEXT = extensions.new_type((_TIMESTAMPTZ,), "TIME_AS_TEXT", extensions.UNICODE)
"""Registered on a connection, it has times returned as PostgreSQL's texts, as grouped reads need them."""


def refuse_encoding(connection: Any) -> None:
    """Raise Failed for a database that can't store every text; PostgreSQL has reported its encoding."""
    encoding = connection.get_parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):  # a pooler may not pass the report on
        raise Failed(
            f"the encoding of the database is {encoding}: not every text can be stored",
            "create another database with ENCODING 'UTF8' and TEMPLATE template0",
        )


def is_read_only(connection: Any) -> bool:
    """Whether a psycopg2 connection is one to a server that takes no writes; asks nothing.

    PostgreSQL reports both settings with each answer. A pooler may not pass the report on.
    """
    return "on" in (
        connection.get_parameter_status("default_transaction_read_only"),
        connection.get_parameter_status("in_hot_standby"),
    )


def engine_down(url: str, error: BaseException) -> EngineDown:
    """PostgreSQL at that URL can't be used, for the reason in `error`."""
    shown = redact(url)
    return EngineDown(
        f"PostgreSQL at {shown} can't be used: {first_line(error)}",
        f"check it with `psql '{shown}' -c 'SELECT 1'`; the setting is INSTACHAT_DATABASE_URL",
    )


def first_line(error: BaseException) -> str:
    """The first line of the driver's own message."""
    lines = str(getattr(error, "orig", error) or "").strip().splitlines()
    return lines[0] if lines else "no answer"
