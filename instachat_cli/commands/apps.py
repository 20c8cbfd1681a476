"""Applications: the tenants, each named by its token."""

from instachat_cli.console.confirm import Deletion, check_can_ask
from instachat_cli.console.options import Cascade, DryRunFlag, Limit, Name, Output, Token, Yes
from instachat_cli.console.output import Printer
from instachat_cli.console.typer_setup import command, group
from instachat_cli.runtime.context import backend_context, warn_if_not_durable

app = group(
    """
    Applications: the tenants, each named by its token.

    $ instachat apps create "Support desk"
    """
)

# What a table shows; JSON has every field.
COLUMNS = ("token", "chats_count", "created_at", "name")


@command(app)
def create(name: Name, output: Output = None) -> None:
    """Create an application and print its token.

    $ instachat apps create "Support desk"

    The token gives full access to the application. Treat it as a password.
    """
    from backend.domain import serialization

    with backend_context() as core:
        application = core.catalog.applications.create(name)
        Printer(output).one(serialization.application(application))
        warn_if_not_durable(core)


@command(app, "list")
def list_(limit: Limit = None, output: Output = None) -> None:
    """List all applications, oldest first.

    $ instachat apps list
    """
    from backend.domain import serialization

    with backend_context() as core:
        bodies = map(serialization.application, core.catalog.applications.list(limit=limit))
        Printer(output).many(bodies, COLUMNS, "no applications yet")


@command(app)
def show(token: Token, output: Output = None) -> None:
    """Show an application with its live count of chats.

    $ instachat apps show $TOKEN
    """
    from backend.domain import serialization

    with backend_context() as core:
        Printer(output).one(serialization.application(core.catalog.applications.get(token)))


@command(app)
def rename(token: Token, name: Name, output: Output = None) -> None:
    """Rename an application.

    $ instachat apps rename $TOKEN "Help desk"
    """
    from backend.domain import serialization

    with backend_context() as core:
        Printer(output).one(
            serialization.application(core.catalog.applications.rename(token, name))
        )


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
        if cascade:
            cascade_delete.delete(
                core,
                Parent(token),
                deletion,
                fetch=lambda: core.catalog.applications.get(token),
                describe=lambda found: (
                    f"application “{found.name}” and its {found.chats_count:,} chats"
                ),
                delete_parent=lambda: core.catalog.applications.delete(token, cascade=True),
                body=body,
            )
            return
        application = core.catalog.applications.get(token)
        if application.chats_count:
            raise HasChildren(
                f"the application still has {application.chats_count:,} chats; nothing was deleted",
                "`--cascade` deletes them as well; `instachat chats list TOKEN` lists them",
            )
        deletion.run(
            f"application “{application.name}”",
            body,
            lambda: core.catalog.applications.delete(token),
        )
