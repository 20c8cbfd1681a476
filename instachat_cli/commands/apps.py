"""`instachat apps`: applications, the tenants."""

from instachat_cli.console import confirm
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


@command(app)
def create(name: Name, output: Output = None) -> None:
    """Create an application, and print its token.

    $ instachat apps create "Support desk"

    Whoever knows the token can use the application: keep it as a password.
    """
    from backend.domain import serialization

    with backend_context() as core:
        made = core.catalog.create_application(name)
        Printer(output).one(serialization.application(made))
        warn_if_not_durable(core)


@command(app, "list")
def list_(limit: Limit = None, output: Output = None) -> None:
    """List all applications, oldest first.

    $ instachat apps list
    """
    from backend.domain import serialization

    with backend_context() as core:
        found = map(serialization.application, core.catalog.applications(limit=limit))
        Printer(output).many(
            found, ["token", "chats_count", "created_at", "name"], "no applications yet"
        )


@command(app)
def show(token: Token, output: Output = None) -> None:
    """Show an application, with its live count of chats.

    $ instachat apps show $TOKEN
    """
    from backend.domain import serialization

    with backend_context() as core:
        Printer(output).one(serialization.application(core.catalog.application(token)))


@command(app)
def rename(token: Token, name: Name, output: Output = None) -> None:
    """Give an application another name.

    $ instachat apps rename $TOKEN "Help desk"
    """
    from backend.domain import serialization

    with backend_context() as core:
        Printer(output).one(serialization.application(core.catalog.rename_application(token, name)))


@command(app)
def delete(
    token: Token,
    cascade: Cascade = False,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Delete an application that has no chats; with --cascade also one that has.

    $ instachat apps delete $TOKEN

    A cascade can be interrupted: the application is gone at once, and what is left of it goes by a worker,
    or when the same command is given again.
    """
    from backend.domain.errors import HasChildren
    from backend.domain.model import Parent
    from instachat_cli.runtime import cascade_delete

    confirm.check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        body, printer = {"token": token}, Printer(output)
        if not cascade:
            found = core.catalog.application(token)
            if found.chats_count:
                raise HasChildren(
                    f"the application still has {found.chats_count:,} chats; nothing was deleted",
                    "`--cascade` deletes them, too; `instachat chats list TOKEN` lists them",
                )
            what = f"application “{found.name}”"
            confirm.delete(
                what,
                body,
                lambda: core.catalog.delete_application(token),
                printer=printer,
                yes=yes,
                dry_run=dry_run,
            )
            return
        parent = Parent(token)
        target = cascade_delete.find_target(core, parent, lambda: core.catalog.application(token))
        cascade_delete.delete(
            core,
            parent,
            f"application “{target.name}” and its {target.chats_count:,} chats"
            if target
            else "what is left of the application",
            body,
            lambda: core.catalog.delete_application(token, cascade=True) if target else None,
            printer=printer,
            yes=yes,
            dry_run=dry_run,
        )
