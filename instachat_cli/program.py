"""The tree of commands: what `instachat` knows, and nothing about how it is done.

A command's module is imported when the command is named, not before: the start of each costs what it needs
itself, however many there are. The help of the whole shows them by the sentences that stand here, which a
test holds against their own.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.exceptions import Exit
from typer.main import get_command, get_group

from instachat_cli.console.typer_setup import Group, command, group


class CommandEntry(NamedTuple):
    """A command: where it is declared (a function, or the `app` of a group), and what it does."""

    target: str
    summary: str


REGISTRY = {
    "up": CommandEntry("up:up", "Run everything: engines, migrations, the HTTP API."),
    "serve": CommandEntry("serve:serve", "Serve the HTTP API, until told to stop."),
    "worker": CommandEntry("up:worker", "Store what is accepted, until told to stop."),
    "demo": CommandEntry("demo:demo", "Tell the whole story on real conversations."),
    "migrate": CommandEntry("migrate:migrate", "Bring the database to the current schema."),
    "apps": CommandEntry("apps:app", "Applications: the tenants, each named by its token."),
    "chats": CommandEntry("chats:app", "Chats: numbered within their application."),
    "messages": CommandEntry("messages:app", "Messages: numbered within their chat."),
    "search": CommandEntry("search:search", "Find the messages of a chat that contain a keyword."),
    "reindex": CommandEntry("reindex:reindex", "Build the search index anew."),
    "export": CommandEntry("transfer:export", "Write everything that is stored as JSON lines."),
    "import": CommandEntry("transfer:import_", "Import what `export` wrote, keeping tokens."),
    "reconcile": CommandEntry(
        "reconcile:reconcile", "Compare Redis, SQL and the index key by key."
    ),
    "sync-counters": CommandEntry(
        "sync_counters:sync_counters", "Write the live counters into SQL."
    ),
    "status": CommandEntry(
        "status:status", "Show what waits, who works on it, and how the engines are."
    ),
    "queue": CommandEntry("queue:app", "The job queue."),
    "dead": CommandEntry("dead:app", "Dead letters: events that could not be stored or published."),
    "doctor": CommandEntry("doctor:doctor", "Examine every dependency and setting that can bite."),
    "bench": CommandEntry(
        "bench.group:app",
        "Run load tests with an audit, and benchmarks against ceilings and baselines.",
    ),
    "config": CommandEntry("config:app", "Settings: their values, and where each came from."),
}


class LazyCommands(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = REGISTRY[name].target.partition(":")
        declared = getattr(import_module(f"instachat_cli.commands.{module}"), attribute)
        if isinstance(declared, typer.Typer):
            found = get_group(declared)
            found.name = name
            return found
        single = group("")  # of one command Typer makes that command
        command(single, name)(declared)
        return get_command(single)

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY)

    def __len__(self) -> int:
        return len(REGISTRY)


class RootGroup(Group):
    """The program itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()  # type: ignore[assignment]  # nothing is added to it

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """By name and sentence, none of them imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in REGISTRY.items()])


app = group(
    """
    A chat backend that answers with a number at once and stores behind it.

    $ instachat up
    $ instachat apps create "Support desk"
    $ instachat messages create $TOKEN 1 "Good morning"
    """,
    name="instachat",
    cls=RootGroup,
)


def _print_version(requested: bool) -> None:
    if requested:
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
    except Exit as exit_:  # by --help and --version
        return exit_.exit_code
    return 0
