"""Bring the database to the current schema."""

from typing import TYPE_CHECKING, Any

from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import note_count
from instachat_cli.console.options import DryRunFlag, Output, Partitions
from instachat_cli.console.output import Printer
from instachat_cli.runtime.audit import recorded

if TYPE_CHECKING:
    from backend.storage.postgres.database import Database


def migrate(
    partitions: Partitions = None, dry_run: DryRunFlag = False, output: Output = None
) -> None:
    """Bring the database to the current schema.

    $ instachat migrate --dry-run

    Prints the old and the new revision. Safe to repeat, to run concurrently, and while other programs use the
    database. A newer schema stays as it is; the command fails if it does not admit this program. While
    `--partitions` copies the messages, they are accepted and read, but not stored, edited or deleted.
    """
    from backend.bootstrap import open_database
    from backend.monitoring.audit_trail import AuditTrail
    from backend.settings import load
    from backend.storage.postgres.schema_upgrade import upgrade
    from instachat_cli.runtime import logging_setup

    logging_setup.log_notices_to_stderr()
    with open_database(load()) as database:
        before, now = upgrade(database, dry_run=dry_run)
        # Only now: the audit trail may be a table of this migration.
        with recorded(lambda: AuditTrail(database)):
            if before != now:
                note_count("migrations", int(now) - int(before or 0))
            _print(database, Printer(output), (before, now), partitions, dry_run=dry_run)


def _print(
    database: "Database",
    printer: Printer,
    schemas: tuple[str | None, str],
    partitions: int | None,
    *,
    dry_run: bool,
) -> None:
    """Distribute the messages over partitions, if that is asked for, and print all that was done."""
    before, now = schemas
    if before == now:
        sentence = f"nothing to migrate: the schema is current ({now})"
    else:
        verb = "would migrate" if dry_run else "migrated"
        sentence = f"{verb} from {before or 'nothing'} to {now}"
    body: dict[str, Any] = {"from": before, "to": now}
    if partitions is not None:
        were = 1
        if before is not None or not dry_run:
            were = _partition(database, partitions, dry_run=dry_run)
        body |= {"partitions": partitions, "partitions_before": were}
        verb = "would move" if dry_run else "moved"
        if were == partitions:
            sentence += f"; the messages are in {_tables(were)} already"
        else:
            sentence += f"; {verb} the messages from {_tables(were)} to {_tables(partitions)}"
    printer.outcome(body, sentence)


def _partition(database: "Database", partitions: int, *, dry_run: bool) -> int:
    """Distribute the messages over so many partitions; returns how many there were."""
    from backend.storage.postgres.partitions import count_partitions, partition_messages

    if dry_run:
        with database.connect() as connection:
            return count_partitions(connection)
    try:
        return partition_messages(database, partitions)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the messages stay where they were") from None


def _tables(partitions: int) -> str:
    return "one table" if partitions == 1 else f"{partitions} partitions"
