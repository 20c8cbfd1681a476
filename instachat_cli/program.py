"""The program: the root of the command tree, and the discovery of its commands.

Each module of `commands/` is one command. `sync_counters.py` is `instachat sync-counters`; a trailing
underscore keeps a module's name apart from a keyword, as in `import_.py`. The module declares either a
function of its own name or, for a noun with verbs, a Typer group called `app`. A package is a group as
well: its module `group` holds the `app`.

A module is imported only when its command runs, so the start of a command costs only what that command
needs. The program's help shows the first line of each module's docstring, which it reads without importing
the module.
"""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer._click.shell_completion import CompletionItem
from typer.exceptions import Exit
from typer.main import get_command, get_group

from instachat_cli.console.typer_setup import Group, command, group

HELP_ORDER = (
    *("up", "serve", "worker", "demo", "migrate"),
    *("apps", "chats", "messages", "search", "purge", "erase"),
    *("reindex", "export", "import", "reconcile", "sync-counters", "reshard"),
    *("status", "queue", "dead", "audit", "doctor", "adopt-redis", "bench", "config"),
)
"""In which order the help lists the commands. A command that is not named here comes last."""

COMPLETE_VARIABLE = "_INSTACHAT_COMPLETE"  # set by a shell that asks what it may suggest
COMMANDS_FOLDER = Path(__file__).parent / "commands"


@cache
def command_modules() -> dict[str, str]:
    """The name of each command's module by the name of the command, in the order of the help."""
    modules = {
        module.rstrip("_").replace("_", "-"): module
        for module, suffix in map(os.path.splitext, os.listdir(COMMANDS_FOLDER))  # noqa: PTH208
        if not module.startswith(("_", ".")) and suffix in (".py", "")
    }
    places = {name: place for place, name in enumerate(HELP_ORDER)}
    return dict(sorted(modules.items(), key=lambda item: (places.get(item[0], 99), item[0])))


def summary(name: str) -> str:
    """What a command does, in one sentence: the first line of its module's docstring."""
    path = COMMANDS_FOLDER / command_modules()[name]
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    with file.open(encoding="utf-8") as lines:
        return next(lines).strip().strip('"')


class LazyCommands(Mapping[str, Any]):
    """The commands by name; looking one up imports it."""

    def __getitem__(self, name: str) -> Any:
        module = command_modules()[name]
        inner = ".group" if (COMMANDS_FOLDER / module).is_dir() else ""
        imported = import_module(f"instachat_cli.commands.{module}{inner}")
        if hasattr(imported, "app"):
            noun = get_group(imported.app)
            noun.name = name
            return noun
        single = group("")  # Typer turns a group of one command into that command
        command(single, name)(getattr(imported, module))
        return get_command(single)

    def __contains__(self, name: object) -> bool:
        return name in command_modules()

    def __iter__(self) -> Iterator[str]:
        return iter(command_modules())

    def __len__(self) -> int:
        return len(command_modules())


class RootGroup(Group):
    """The program itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()  # type: ignore[assignment]  # Typer adds nothing to it

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Suggest the commands by name and summary, without importing them, and the options."""
        names = [name for name in command_modules() if name.startswith(incomplete)]
        if not incomplete.startswith("-"):
            return [CompletionItem(name, help=summary(name)) for name in names]
        return super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """List the commands by name and summary, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in command_modules()])


app = group(
    """
    A chat backend that returns each new message's number immediately and stores the message in the
    background.

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


def _print_completion(ctx: typer.Context, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        from instachat_cli.console.completion import script

        typer.echo(script(COMPLETE_VARIABLE))
        raise typer.Exit


def _install_completion(ctx: typer.Context, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        from instachat_cli.console.completion import install_script

        typer.echo(f"installed in {install_script(COMPLETE_VARIABLE)}; it works in new shells")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    install: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            help="Install completion for this shell: bash, zsh or fish.",
            callback=_install_completion,
            is_eager=True,
        ),
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show-completion",
            help="Print this shell's completion script.",
            callback=_print_completion,
            is_eager=True,
        ),
    ] = False,
) -> None: ...


def invoke(arguments: list[str]) -> int:
    """Run the command that the arguments name; returns 0, or raises.

    Typer's own `main` is not used, because it prints errors and ends the process by itself.
    """
    root = get_command(app)
    if COMPLETE_VARIABLE in os.environ:
        from instachat_cli.console.completion import answer_shell

        return answer_shell(root, os.environ[COMPLETE_VARIABLE])
    try:
        with root.make_context("instachat", arguments) as context:
            root.invoke(context)
    except Exit as exit_:  # raised by --help and --version
        return exit_.exit_code
    return 0
