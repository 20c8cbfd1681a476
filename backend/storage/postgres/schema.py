"""The schema of a database, and which programs may use it.

A schema is the number of the newest migration that has run. A program needs the schema of its own newest
migration, `SCHEMA`. It also runs with newer schemas, as long as the database admits it:
`installation.compatible_since` is the oldest schema whose programs may use the database. A migration that
only adds keeps that value. One that takes away or changes what older programs use raises it, by stating
`compatible_since` in its script. So programs of two releases run beside each other during an upgrade.
"""

from typing import TYPE_CHECKING, NamedTuple

from backend.domain.errors import SchemaMismatch

if TYPE_CHECKING:  # commands that read need the schema, and no SQLAlchemy
    from sqlalchemy import Connection

SCHEMA = "0021"  # the newest migration; a test compares it with the scripts

# The row as JSON: a database from before the column has none.
_SCHEMA = """
    SELECT version_num AS number, to_jsonb(installation) ->> 'compatible_since' AS compatible_since
    FROM alembic_version, installation"""
_RAISE_COMPATIBLE_SINCE = """
    UPDATE installation SET compatible_since = %(schema)s WHERE compatible_since < %(schema)s"""


class Schema(NamedTuple):
    """The schema of a database."""

    number: str
    """The number of the newest migration that has run."""
    compatible_since: str | None
    """The oldest schema whose programs may use this one; None if the schema is too old to say so."""

    def mismatch(self) -> SchemaMismatch | None:
        """Why this program may not use the database, and what to do; None if it may."""
        if self.number < SCHEMA:
            return SchemaMismatch(
                f"the database has schema {self.number}, this program needs {SCHEMA}",
                "run `instachat migrate`",
            )
        return refuse_outdated(self.compatible_since)


def read_schema(connection: "Connection") -> Schema | None:
    """The schema of the database; None if it has no tables."""
    if connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is None:
        return None
    return Schema(*connection.exec_driver_sql(_SCHEMA).one())


def refuse_outdated(compatible_since: str | None) -> SchemaMismatch | None:
    """Why this program is too old for a database that admits programs since that schema; None if it isn't."""
    if compatible_since is None or compatible_since <= SCHEMA:
        return None
    return SchemaMismatch(
        f"this program has schema {SCHEMA}, the database admits programs since {compatible_since}",
        "run a newer instachat",
    )


def raise_compatible_since(tx: "Connection", schema: str) -> None:
    """Admit only programs of this schema and newer ones from now on."""
    tx.exec_driver_sql(_RAISE_COMPATIBLE_SINCE, {"schema": schema})
