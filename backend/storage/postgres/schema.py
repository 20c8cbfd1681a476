"""The schema of a database, and which programs may use it.

A schema is the number of the newest migration that has run. A program needs the schema of its own newest
migration, `tables.SCHEMA`. It also runs with newer schemas, as long as the database admits it:
`installation.compatible_since` is the oldest schema whose programs may use the database. A migration that
only adds keeps that value. One that takes away or changes what older programs use raises it, by stating
`compatible_since` in its script. So programs of two releases run beside each other during an upgrade.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text

from backend.domain.errors import SchemaMismatch

# The row as JSON: a database from before the column has none.
_SCHEMA = text(
    """
    SELECT version_num AS number, to_jsonb(installation) ->> 'compatible_since' AS compatible_since
    FROM alembic_version, installation"""
)
_RAISE_COMPATIBLE_SINCE = text(
    """
    UPDATE installation SET compatible_since = :schema WHERE compatible_since < :schema"""
)


class Schema(NamedTuple):
    """The schema of a database."""

    number: str
    """The number of the newest migration that has run."""
    compatible_since: str | None
    """The oldest schema whose programs may use this one; None if the schema is too old to say so."""

    def mismatch(self) -> SchemaMismatch | None:
        """Why this program may not use the database, and what to do; None if it may."""
        from backend.storage.postgres.tables import SCHEMA  # takes some ms to import

        if self.number < SCHEMA:
            return SchemaMismatch(
                f"the database has schema {self.number}, this program needs {SCHEMA}",
                "run `instachat migrate`",
            )
        return refuse_outdated(self.compatible_since)


def read_schema(connection: Connection) -> Schema | None:
    """The schema of the database; None if it has no tables."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    return Schema(*connection.execute(_SCHEMA).one())


def refuse_outdated(compatible_since: str | None) -> SchemaMismatch | None:
    """Why this program is too old for a database that admits programs since that schema; None if it isn't."""
    from backend.storage.postgres.tables import SCHEMA

    if compatible_since is None or compatible_since <= SCHEMA:
        return None
    return SchemaMismatch(
        f"this program has schema {SCHEMA}, the database admits programs since {compatible_since}",
        "run a newer instachat",
    )


def raise_compatible_since(tx: Connection, schema: str) -> None:
    """Admit only programs of this schema and newer ones from now on."""
    tx.execute(_RAISE_COMPATIBLE_SINCE, {"schema": schema})
