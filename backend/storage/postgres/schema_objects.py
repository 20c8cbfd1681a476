"""What a database of the current schema must have, compared with what it has; and what its role may do."""

from collections.abc import Iterator
from functools import partial

from sqlalchemy import CheckConstraint, Constraint, Index, text
from sqlalchemy.schema import CreateIndex

from backend.storage.postgres.database import Connection
from backend.storage.postgres.interruptible import run_interruptibly
from backend.storage.postgres.statements import texts
from backend.storage.postgres.tables import metadata

# The privileges without which nothing is accepted or stored. Fewer than an owner has.
_NEEDED = {
    "application": ("SELECT", "INSERT", "UPDATE"),
    "chat": ("SELECT", "INSERT", "UPDATE"),
    "message": ("SELECT", "INSERT", "UPDATE"),
    "message_block": ("SELECT", "INSERT", "UPDATE"),
    "shard": ("SELECT", "UPDATE"),
    "outbox": ("SELECT", "INSERT", "DELETE"),
    "dead_letter": ("SELECT", "INSERT", "DELETE"),
    "operator_change": ("SELECT", "INSERT", "UPDATE"),
}
# text(): the system catalog.
_FOUND = text(
    """
    SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p')
       AND c.oid IN (SELECT to_regclass(name) FROM unnest(:tables) AS name)"""
).bindparams(texts("tables"))
_PLAIN_TABLES = text(
    """
    SELECT c.relname FROM pg_class c WHERE c.relkind = 'r'
       AND c.oid IN (SELECT to_regclass(name) FROM unnest(:tables) AS name)"""
).bindparams(texts("tables"))
_INDEXES = text(
    """
    SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid IN (SELECT to_regclass(name) FROM unnest(:tables) AS name)"""
).bindparams(texts("tables"))
_CONSTRAINTS = text(
    """
    SELECT conname FROM pg_constraint
    WHERE conrelid IN (SELECT to_regclass(name) FROM unnest(:tables) AS name)"""
).bindparams(texts("tables"))
_PRIVILEGE = text("SELECT has_table_privilege(to_regclass(:table), :privilege)")
_READ_ONLY = text(
    "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'"
)
_ROLE = text("SELECT current_user::text")


def missing_objects(connection: Connection) -> list[str]:
    """The tables, constraints and indexes that the database lacks, or has invalid, such as `index NAME`."""
    values = {"tables": list(metadata.tables)}
    tables = set(connection.execute(_FOUND, values).scalars())
    indexes = {row.relname: row.indisvalid for row in connection.execute(_INDEXES, values)}
    constraints = set(connection.execute(_CONSTRAINTS, values).scalars())
    missing = []
    for table in metadata.sorted_tables:
        if table.name not in tables:
            missing.append(f"table {table.name}")
            continue
        for constraint in sorted(table.constraints, key=_name):
            if _name(constraint) and _name(constraint) not in constraints:
                kind = "check" if isinstance(constraint, CheckConstraint) else "constraint"
                missing.append(f"{kind} {_name(constraint)} of {table.name}")
        for index in sorted(map(str, (index.name for index in table.indexes))):
            if not indexes.get(index, False):
                state = "invalid index" if index in indexes else "index"
                missing.append(f"{state} {index} of {table.name}")
    return missing


def creatable_indexes(connection: Connection) -> list[Index]:
    """The missing or invalid indexes that `create_index` can create while everything goes on.

    Not unique ones, which the rows may contradict, and not those of partitioned tables.
    """
    names = list(metadata.tables)
    plain = set(connection.scalars(_PLAIN_TABLES, {"tables": names}))
    valid = {row.relname: row.indisvalid for row in connection.execute(_INDEXES, {"tables": names})}
    return [
        index
        for table in metadata.sorted_tables
        if table.name in plain
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if not index.unique and not valid.get(str(index.name), False)
    ]


def create_index(connection: Connection, index: Index) -> None:
    """Create an index, in place of one that is invalid; a KeyboardInterrupt leaves one that is invalid.

    For a connection without a transaction. Writes to the table go on meanwhile.
    """
    create = str(CreateIndex(index).compile(dialect=connection.dialect))
    for statement in (
        f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}",
        create.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY", 1),
    ):
        run_interruptibly(connection, partial(connection.exec_driver_sql, statement))


def is_read_only(connection: Connection) -> bool:
    """Whether the server takes no writes from this role: a standby, or a setting."""
    return bool(connection.scalar(_READ_ONLY))


def current_role(connection: Connection) -> str:
    """The role that the program connects as."""
    return str(connection.scalar(_ROLE))


def missing_privileges(connection: Connection) -> Iterator[str]:
    """The privileges that the role needs and lacks, such as `INSERT on message`; none of missing tables."""
    for table, privileges in _NEEDED.items():
        for privilege in privileges:
            values = {"table": table, "privilege": privilege}
            if connection.scalar(_PRIVILEGE, values) is False:
                yield f"{privilege} on {table}"


def _name(constraint: Constraint) -> str:
    return "" if constraint.name is None else str(constraint.name)
