"""The checks of the database's tables and of the role's privileges, for `doctor`."""

from collections.abc import Iterator

from backend.monitoring.checks import CheckResult, SafeRepair, Severity, ok_result
from backend.storage.postgres import schema_objects
from backend.storage.postgres.database import Database

MAX_NAMED = 10


def check_schema_objects(database: Database) -> Iterator[CheckResult]:
    """An error if a table, a constraint or an index is missing, with its name. For the current schema."""
    with database.connect() as connection:
        missing = schema_objects.missing_objects(connection)
        creatable = schema_objects.creatable_indexes(connection)
    if missing:
        yield CheckResult(
            "tables",
            Severity.ERROR,
            f"the database lacks {_listed(missing)}: rows may be stored twice, or found slowly",
            "somebody has dropped it: restore it from a backup's schema (`pg_dump --schema-only`), or from"
            " that of a new database after `instachat migrate`. `instachat doctor --fix` creates indexes",
            repair=SafeRepair.CREATE_INDEXES if creatable else None,
        )
    else:
        yield ok_result("tables", "all tables, constraints and indexes are there")


def check_privileges(database: Database) -> Iterator[CheckResult]:
    """An error if the role may not write what the program writes."""
    with database.connect() as connection:
        role = schema_objects.current_role(connection)
        is_read_only = schema_objects.is_read_only(connection)
        missing = list(schema_objects.missing_privileges(connection))
    if is_read_only:
        yield CheckResult(
            "privileges",
            Severity.ERROR,
            f"the server takes no writes from the role {role}: it is a standby, or"
            " default_transaction_read_only is on",
            "name the primary in INSTACHAT_DATABASE_URL, or turn default_transaction_read_only off",
        )
    elif missing:
        yield CheckResult(
            "privileges",
            Severity.ERROR,
            f"the role {role} lacks {_listed(missing)}: nothing can be stored",
            "as the tables' owner: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO"
            f' "{role}"',
        )
    else:
        yield ok_result("privileges", f"the role {role} may read and write")


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
