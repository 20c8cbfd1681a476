"""`instachat apps`: applications, the tenants."""

from instachat_cli import consent
from instachat_cli.options import DryRun, Limit, Name, Output, Token, Yes
from instachat_cli.output import Printer
from instachat_cli.session import backend, warn_if_not_durable
from instachat_cli.tree import command, group

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
    from backend import bodies

    with backend() as core:
        made = core.catalog.create_application(name)
        Printer(output).one(bodies.application(made))
        warn_if_not_durable(core)


@command(app, "list")
def list_(limit: Limit = None, output: Output = None) -> None:
    """List all applications, oldest first.

    $ instachat apps list
    """
    from backend import bodies

    with backend() as core:
        found = map(bodies.application, core.catalog.applications(limit=limit))
        Printer(output).many(
            found, ["token", "chats_count", "created_at", "name"], "no applications yet"
        )


@command(app)
def show(token: Token, output: Output = None) -> None:
    """Show an application, with its live count of chats.

    $ instachat apps show $TOKEN
    """
    from backend import bodies

    with backend() as core:
        Printer(output).one(bodies.application(core.catalog.application(token)))


@command(app)
def rename(token: Token, name: Name, output: Output = None) -> None:
    """Give an application another name.

    $ instachat apps rename $TOKEN "Help desk"
    """
    from backend import bodies

    with backend() as core:
        Printer(output).one(bodies.application(core.catalog.rename_application(token, name)))


@command(app)
def delete(token: Token, yes: Yes = False, dry_run: DryRun = False, output: Output = None) -> None:
    """Delete an application that has no chats.

    $ instachat apps delete $TOKEN
    """
    from backend.errors import HasChildren

    consent.check_can_ask(yes=yes, dry_run=dry_run)
    with backend() as core:
        found = core.catalog.application(token)
        if found.chats_count:
            raise HasChildren(
                f"the application still has {found.chats_count:,} chats; nothing was deleted",
                "delete its chats first: list them with `instachat chats list TOKEN`",
            )
        consent.delete(
            f"application “{found.name}”",
            {"token": token},
            lambda: core.catalog.delete_application(token),
            printer=Printer(output),
            yes=yes,
            dry_run=dry_run,
        )
