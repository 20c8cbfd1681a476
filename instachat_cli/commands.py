"""The tree of commands: what `instachat` knows, and nothing about how it is done."""

from typing import Annotated

import typer
from typer.exceptions import Exit
from typer.main import get_command

from instachat_cli import (
    apps,
    chats,
    config,
    dead,
    demo,
    doctor,
    messages,
    migrate,
    queue,
    reconcile,
    reindex,
    run,
    search,
    serve,
    status,
    sync,
    transfer,
)
from instachat_cli.bench import commands as bench
from instachat_cli.tree import command, group

app = group(
    """
    A chat backend that answers with a number at once and stores behind it.

    $ instachat up
    $ instachat apps create "Support desk"
    $ instachat messages create $TOKEN 1 "Good morning"
    """,
    name="instachat",
)
command(app)(run.up)
command(app)(serve.serve)
command(app)(run.worker)
command(app)(demo.demo)
command(app)(migrate.migrate)
app.add_typer(apps.app, name="apps")
app.add_typer(chats.app, name="chats")
app.add_typer(messages.app, name="messages")
command(app)(search.search)
command(app)(reindex.reindex)
command(app)(transfer.export)
command(app, "import")(transfer.import_)
command(app)(reconcile.reconcile)
command(app, "sync-counters")(sync.sync_counters)
command(app)(status.status)
app.add_typer(queue.app, name="queue")
app.add_typer(dead.app, name="dead")
command(app)(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(config.app, name="config")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"instachat {version('instachat')}")
        except PackageNotFoundError:
            typer.echo("instachat, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None: ...


def invoke(arguments: list[str]) -> int:
    """Run the command that the arguments name; returns 0, or raises.

    Not by calling Typer's own `main`, which prints errors and ends the process as it likes.
    """
    root = get_command(app)
    try:
        with root.make_context("instachat", arguments) as context:
            root.invoke(context)
    except Exit as end:  # by --help and --version
        return end.exit_code
    return 0
