"""The audit trail: what operators have changed."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Limit, Output, parse_time
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.storage.postgres.operator_changes import OperatorChange

app = group(
    """
    The audit trail: what operators have changed.

    $ instachat audit list --since 7d
    """
)
Since = Annotated[
    datetime | None,
    typer.Option(
        metavar="T",
        help="Only changes that began at this time or later: RFC 3339, or an age such as 2h.",
        parser=parse_time,
    ),
]
# What a table shows; JSON has every field.
COLUMNS = ("started_at", "actor", "command", "target", "result")


@command(app, "list")
@not_audited
def list_(since: Since = None, limit: Limit = None, output: Output = None) -> None:
    """List the changes of operators, the newest first.

    $ instachat audit list --since 7d
    $ instachat audit list --limit 20

    Changes are those of the commands, and of the HTTP routes that require the operator's token. A change that
    is being made, and one whose process was killed, has the result `unfinished`. No row has a text or a name,
    and of a token only its beginning.
    """
    with backend_context() as core:
        bodies = map(_body, core.audit_trail.list(since, limit))
        Printer(output).many(bodies, COLUMNS, "no changes")


def _body(change: "OperatorChange") -> Body:
    from backend.domain.serialization import rfc3339
    from backend.monitoring.audit_trail import UNFINISHED

    return {
        "started_at": rfc3339(change.started_at),
        "finished_at": None if change.finished_at is None else rfc3339(change.finished_at),
        "actor": change.actor,
        "command": change.command,
        "target": change.target,
        "result": change.result or UNFINISHED,
        "counts": change.counts,
    }
