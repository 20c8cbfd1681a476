"""Bring the database to the current schema."""

from instachat_cli.console.options import DryRunFlag, Output
from instachat_cli.console.output import Printer


def migrate(dry_run: DryRunFlag = False, output: Output = None) -> None:
    """Bring the database to the current schema.

    $ instachat migrate --dry-run

    Prints the old and the new revision. Safe to repeat, to run concurrently, and while other programs use the
    database. A newer schema stays as it is; the command fails if it does not admit this program.
    """
    from backend.bootstrap import migrate as migrate_database
    from backend.settings import load
    from instachat_cli.runtime import logging_setup

    logging_setup.log_notices_to_stderr()
    before, now = migrate_database(load(), dry_run=dry_run)
    if before == now:
        sentence = f"nothing to migrate: the schema is current ({now})"
    else:
        sentence = (
            f"{'would migrate' if dry_run else 'migrated'} from {before or 'nothing'} to {now}"
        )
    Printer(output).outcome({"from": before, "to": now}, sentence)
