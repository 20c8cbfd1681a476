"""Rate limits: how many chats and messages an application may create in a second."""

from collections.abc import Mapping

from sqlalchemy import bindparam, delete, func, select, text

from backend.storage.postgres.database import Connection
from backend.storage.postgres.schema import raise_compatible_since
from backend.storage.postgres.tables import application, rate_limit

RATE_LIMIT_SCHEMA = (
    "0021"  # programs of earlier ones take an application with a limit for a closed one
)
_of_token = select(application.c.id).where(
    application.c.token == bindparam("of_token"), application.c.removed_at.is_(None)
)
# text(): arrays, the rows of another table, and what replaces them.
SET = text(
    """
    INSERT INTO rate_limit (application_id, per_second)
    SELECT a.id, w.per_second FROM unnest(cast(:tokens AS text[]), cast(:limits AS bigint[]))
        AS w(token, per_second)
    JOIN application a ON a.token = w.token AND a.removed_at IS NULL
    ON CONFLICT (application_id) DO UPDATE SET per_second = excluded.per_second"""
)
UNSET = delete(rate_limit).where(rate_limit.c.application_id.in_(_of_token))
PER_SECOND = select(rate_limit.c.per_second).where(rate_limit.c.application_id.in_(_of_token))
COUNT = select(func.count()).select_from(rate_limit)


def set_rate_limit(tx: Connection, token: str, per_second: int) -> bool:
    """Set an application's limit. False if there is no such application."""
    return set_rate_limits(tx, {token: per_second}) > 0


def set_rate_limits(tx: Connection, limits: Mapping[str, int]) -> int:
    """Set the limits of applications, by token; returns how many of these there are.

    From the first limit on programs that know none are not admitted.
    """
    if not limits:
        return 0
    raise_compatible_since(tx, RATE_LIMIT_SCHEMA)
    values = {"tokens": list(limits), "limits": list(limits.values())}
    return tx.execute(SET, values).rowcount


def unset_rate_limit(tx: Connection, token: str) -> None:
    """Remove an application's limit, if it has one."""
    tx.execute(UNSET, {"of_token": token})


def find_rate_limit(connection: Connection, token: str) -> int | None:
    """An application's limit; None if it has none."""
    per_second: int | None = connection.scalar(PER_SECOND, {"of_token": token})
    return per_second


def count_rate_limits(connection: Connection) -> int:
    """How many applications have a limit."""
    return int(connection.scalar(COUNT) or 0)
