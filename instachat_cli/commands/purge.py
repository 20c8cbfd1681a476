"""Delete the messages that are older than an age."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.options import App, DryRunFlag, Output, Yes, parse_duration
from instachat_cli.console.output import Printer
from instachat_cli.runtime.context import backend_context

Age = Annotated[
    int,
    typer.Option(
        "--older-than", metavar="AGE", help="An age such as 90d or 12h.", parser=parse_duration
    ),
]


def purge(
    older_than: Age,
    app: App = None,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete the messages that are older than an age. Made for cron.

    $ instachat purge --older-than 90d --yes
    $ instachat purge --older-than 1d --app $TOKEN --dry-run

    The texts are erased in PostgreSQL and removed from the search index; the numbers are never reused. The
    messages are deleted in transactions of at most 500. After an interruption, the same command deletes the
    rest.
    """
    from backend.domain.errors import Invalid
    from instachat_cli.runtime.bulk_delete import delete_older

    try:
        until = datetime.now(UTC) - timedelta(seconds=older_than)
    except OverflowError:
        raise Invalid("--older-than is longer ago than time began") from None
    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        if app is not None:
            app = core.tokens.original(app)
            core.catalog.applications.get(app)  # NotFound for an unknown one
        delete_older(core, Deletion(Printer(output), yes, dry_run), until, app)
