"""Bring the database to the current schema."""

from typing import Any

from instachat_cli.console.options import DryRunFlag, Output, Partitions
from instachat_cli.console.output import Printer


def migrate(
    partitions: Partitions = None, dry_run: DryRunFlag = False, output: Output = None
) -> None:
    """Bring the database to the current schema.

    $ instachat migrate --dry-run

    Prints the old and the new revision. Safe to repeat, to run concurrently, and while other programs use the
    database. A newer schema stays as it is; the command fails if it does not admit this program. While
    `--partitions` copies the messages, they are accepted and read, but not stored, edited or deleted.
    """
    from backend.bootstrap import migrate as migrate_database
    from backend.bootstrap import partition_messages
    from backend.settings import load
    from instachat_cli.runtime import logging_setup

    logging_setup.log_notices_to_stderr()
    settings = load()
    before, now = migrate_database(settings, dry_run=dry_run)
    if before == now:
        sentence = f"nothing to migrate: the schema is current ({now})"
    else:
        verb = "would migrate" if dry_run else "migrated"
        sentence = f"{verb} from {before or 'nothing'} to {now}"
    body: dict[str, Any] = {"from": before, "to": now}
    if partitions is not None:
        no_tables = dry_run and before is None
        were = 1 if no_tables else partition_messages(settings, partitions, dry_run=dry_run)
        body |= {"partitions": partitions, "partitions_before": were}
        verb = "would distribute" if dry_run else "distributed"
        if were == partitions:
            sentence += f"; the number of partitions is {partitions} already"
        else:
            sentence += f"; {verb} the messages over {partitions} instead of {were} partitions"
    Printer(output).outcome(body, sentence)
