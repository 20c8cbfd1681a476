"""Applications: the tenants, each named by its token."""

from typing import Annotated

import typer

from backend.domain.plurals import counted
from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.invocation import not_audited, note_application
from instachat_cli.console.options import (
    AfterToken,
    Cascade,
    DryRunFlag,
    Limit,
    Name,
    NamePart,
    Output,
    Quiet,
    Token,
    Yes,
)
from instachat_cli.console.output import Printer
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context, reads_context, warn_if_not_durable

app = group(
    """
    Applications: the tenants, each named by its token.

    $ instachat apps create "Support desk"
    """
)

Rate = Annotated[
    str, typer.Argument(metavar="RATE|off", help="Chats and messages a second, as 100/s, or off.")
]
Age = Annotated[str, typer.Argument(metavar="AGE|off", help="An age such as 90d or 12h, or off.")]

# What a table shows; JSON has every field.
COLUMNS = ("token", "chats_count", "created_at", "name")


@command(app)
def create(name: Name, output: Output = None, quiet: Quiet = False) -> None:
    """Create an application and print its token.

    $ instachat apps create "Support desk"

    The token gives full access to the application. Treat it as a password.
    """
    from backend.domain import serialization

    with backend_context() as core:
        application = core.catalog.applications.create(name)
        note_application(application.token)
        Printer(output, quiet=quiet).one(serialization.application(application))
        warn_if_not_durable(core)


@command(app, "list")
@not_audited
def list_(
    name: NamePart = None,
    after: AfterToken = None,
    limit: Limit = None,
    output: Output = None,
    quiet: Quiet = False,
) -> None:
    """List applications in the order of their creation, the oldest first.

    $ instachat apps list --name desk

    An imported application is listed by the time at which it was created, not by that of the import. Without
    --limit all are listed; on a terminal only the first 50.
    """
    with reads_context() as reads:
        bodies = reads.applications(name=name, after=after, limit=limit)
        nothing = "no applications yet" if name is None and after is None else "no such application"
        cut = (
            "`--limit N` lists more of them, `--name` and `--after` others"
            if limit is None
            else None
        )
        Printer(output, quiet=quiet).many(bodies, COLUMNS, nothing, cut=cut)


@command(app)
@not_audited
def show(token: Token, output: Output = None, quiet: Quiet = False) -> None:
    """Show an application with its live count of chats, its retention and its rate limit.

    $ instachat apps show $TOKEN
    """
    with reads_context() as reads:
        Printer(output, quiet=quiet).one(reads.application(token))


@command(app)
def rename(token: Token, name: Name, output: Output = None, quiet: Quiet = False) -> None:
    """Rename an application.

    $ instachat apps rename $TOKEN "Help desk"
    """
    from backend.domain import serialization

    with backend_context() as core:
        token = core.tokens.original(token)
        Printer(output, quiet=quiet).one(
            serialization.application(core.catalog.applications.rename(token, name))
        )


@command(app)
def retention(
    token: Token,
    age: Age,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Set the age at which an application's messages are deleted, or `off`.

    $ instachat apps retention $TOKEN 90d --dry-run
    $ instachat apps retention $TOKEN 90d
    $ instachat apps retention $TOKEN off

    A worker deletes them, within a hundredth of that age, or an hour: their texts are erased in PostgreSQL
    and removed from the search index, and their numbers are never reused. Where no worker is running, use
    `purge`.
    """
    from instachat_cli.runtime import set_retention

    seconds = set_retention.parse_age(age)
    if seconds is not None:
        check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        token = core.tokens.original(token)
        name = core.catalog.applications.get(token).name
        setting = set_retention.RetentionSetting(core, Printer(output), token, name)
        setting.run(seconds, yes=yes, dry_run=dry_run)


@command(app)
def limit(token: Token, rate: Rate, output: Output = None) -> None:
    """Set how many chats and messages an application may create in a second, or `off`.

    $ instachat apps limit $TOKEN 100/s
    $ instachat apps limit $TOKEN off

    It holds at once, for all processes together. As many as come in a second may come at once; a larger
    request is accepted, and the next one waits longer. Over HTTP the others get 429 with `Retry-After`, here
    exit code 5. Programs of earlier releases are refused from the first limit on.
    """
    from backend.domain.application_settings import format_rate, parse_rate

    per_second = parse_rate(rate)
    with backend_context() as core:
        shown = core.catalog.applications.get(core.tokens.original(token))
        core.rate_limits.set(core.tokens.original(token), per_second)
        sentence = (
            f"“{shown.name}” has no limit"
            if per_second is None
            else f"“{shown.name}” may create {counted(per_second, 'chat or message', 'chats and messages')}"
            " a second"
        )
        Printer(output).outcome({"token": token, "limit": format_rate(per_second)}, sentence)


@command(app)
def rotate(token: Token, output: Output = None, quiet: Quiet = False) -> None:
    """Replace the token of an application, because it has leaked.

    $ instachat apps rotate $TOKEN

    Prints the application with its new token. Every server refuses the old one within a second, and ends the
    streams that were opened with it. Chats, messages and numbers stay as they are, and what was accepted
    before is stored. Programs of earlier releases are refused from then on.
    """
    from backend.domain import serialization

    with backend_context() as core:
        rotated = core.catalog.applications.rotate(core.tokens.original(token))
        note_application(rotated.token)
        Printer(output, quiet=quiet).one(serialization.application(rotated))


@command(app)
def delete(
    token: Token,
    cascade: Cascade = False,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete an application. With --cascade, delete its chats and messages as well.

    $ instachat apps delete $TOKEN

    The application is inaccessible immediately. If a cascade is interrupted, a worker deletes the rest, or
    you can run the same command again.
    """
    from backend.domain.errors import HasChildren
    from backend.domain.model import Parent
    from instachat_cli.runtime import cascade_delete

    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        body, deletion = {"token": token}, Deletion(Printer(output), yes, dry_run)
        token = core.tokens.original(token)
        if cascade:
            cascade_delete.delete(
                core,
                Parent(token),
                deletion,
                fetch=lambda: core.catalog.applications.get(token),
                describe=lambda found: (
                    f"application “{found.name}” and its {counted(found.chats_count, 'chat')}"
                ),
                delete_parent=lambda: core.catalog.applications.delete(token, cascade=True),
                body=body,
            )
            return
        application = core.catalog.applications.get(token)
        if application.chats_count:
            raise HasChildren(
                f"the application still has {counted(application.chats_count, 'chat')}; nothing was deleted",
                "`--cascade` deletes them as well; `instachat chats list TOKEN` lists them",
            )
        deletion.run(
            f"application “{application.name}”",
            body,
            lambda: core.catalog.applications.delete(token),
        )
