"""`instachat migrate`: bring the database to the current schema."""

from instachat_cli.console.options import DryRunFlag, Output
from instachat_cli.console.output import Printer
from instachat_cli.runtime.context import engine_urls_context


def migrate(dry_run: DryRunFlag = False, output: Output = None) -> None:
    """Bring the database to the current schema.

    $ instachat migrate --dry-run

    It says from what to what. Run twice, or by two at once, it does no harm. A schema that is newer than
    this program is refused.
    """
    from contextlib import closing

    from backend.storage.postgres.database import Database
    from backend.storage.postgres.schema_upgrade import upgrade

    with engine_urls_context() as urls, closing(Database(urls.database)) as database:
        before, now = upgrade(database, dry_run=dry_run)
    if before == now:
        sentence = f"nothing to migrate: the schema is {now}, the current one"
    else:
        sentence = (
            f"{'would migrate' if dry_run else 'migrated'} from {before or 'nothing'} to {now}"
        )
    Printer(output).outcome({"from": before, "to": now}, sentence)
