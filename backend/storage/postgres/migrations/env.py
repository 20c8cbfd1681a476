"""Alembic's entry: run the scripts on the connection that `schema_upgrade.upgrade` hands over."""

from typing import Any

from alembic import context

from backend.storage.postgres.schema import raise_compatible_since


def _record_compatibility(*_: Any, **applied: Any) -> None:
    """Raise the oldest admitted schema after a migration whose script states one: see `schema`."""
    if schema := getattr(applied["step"].up_revision.module, "compatible_since", None):
        raise_compatible_since(connection, schema)


connection = context.config.attributes["connection"]
context.configure(
    connection=connection, transactional_ddl=True, on_version_apply=_record_compatibility
)
with context.begin_transaction():
    context.run_migrations()
