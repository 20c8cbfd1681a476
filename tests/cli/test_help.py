"""Help: fast, complete, and starting with examples."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from instachat_cli.program import HELP_ORDER, app, command_modules, summary
from tests.cli.conftest import Cli


def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*path, name))


COMMANDS = dict(tree(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "instachat")
def test_help_leads_with_examples(cli: Cli, path: tuple[str, ...]) -> None:
    """They come first; all lines fit in 80 columns; each option and argument is explained."""
    shown = cli(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    heading, example = shown.out.splitlines()[:2]
    assert heading == "Examples:"
    assert example.startswith(f"  $ instachat {' '.join(path)}".rstrip()), shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "..." not in shown.out.partition("Commands:")[2]  # no description is cut
    for parameter in COMMANDS[path].params:
        assert getattr(parameter, "help", None), parameter.name
    assert cli(*path, "-h").out == shown.out


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if hasattr(c, "commands")])
def test_a_noun_alone_shows_its_help(cli: Cli, path: tuple[str, ...]) -> None:
    """The program without arguments does so too."""
    assert cli(*path).out == cli(*path, "--help").out
    assert cli(*path).code == 0


@pytest.mark.parametrize("name", command_modules())
def test_the_program_help_agrees_with_each_commands_help(name: str) -> None:
    """The program's help shows the first line of a module's docstring: the summary of its command."""
    assert COMMANDS[name,].get_short_help_str(59) == summary(name)


def test_the_order_of_the_help_names_only_commands_that_exist() -> None:
    """A command that is not in the order still works; it comes last."""
    assert set(HELP_ORDER) <= set(command_modules())


def test_version(cli: Cli) -> None:
    """The version on standard output, as a line."""
    shown = cli.run_process("--version")
    assert shown.code == 0
    assert shown.out.startswith("instachat")
    assert len(shown.out.splitlines()) == 1


def test_help_loads_nothing_but_typer_and_little_of_ours() -> None:
    """Imports take most of a command's time, which `bench ceilings` measures."""
    libraries = imported("-c", "import typer, rich")
    more = imported("-m", "instachat_cli", "--help") - libraries
    ours = {name for name in more if name.partition(".")[0] in ("backend", "instachat_cli")}
    foreign = {name.partition(".")[0] for name in more - ours} - sys.stdlib_module_names
    assert foreign - {name.partition(".")[0] for name in libraries} == set()
    assert len(ours) <= 16, ours


def test_a_read_loads_only_what_it_uses(cli: Cli, token: str, chat: int) -> None:
    """Imports take most of its time: of libraries, and of parts that write, search or compare."""
    cli("messages", "create", token, chat, "Good morning", "--wait", "stored")
    unused = {
        *("alembic", "fastapi", "huey", "pydantic_settings", "sqlalchemy", "elasticsearch"),
        *("rich", "uvicorn"),
        *("backend.api", "backend.embedded", "backend.live", "backend.maintenance"),
        *("backend.monitoring", "backend.reconcile", "backend.transfer", "backend.worker"),
        *("backend.ingest", "backend.search", "backend.catalog.catalog"),
        *("backend.storage.elasticsearch", "backend.storage.postgres.database"),
    }
    for words in (
        ("apps", "show", token),
        ("apps", "list"),
        ("chats", "show", token, chat),
        ("chats", "list", token),
        ("messages", "show", token, chat, 1),
        ("messages", "list", token, chat),
        ("messages", "list", token, chat, "--last", 1),
        ("search", token, chat, "morning"),
    ):
        loaded = imported("-m", "instachat_cli", *words, environment=cli.env)
        assert {"psycopg2", "redis"} <= loaded
        prefixes = {".".join(name.split(".")[:length]) for name in loaded for length in range(1, 5)}
        assert prefixes & unused == set(), words


def imported(*words: object, environment: dict[str, str] | None = None) -> set[str]:
    """The modules that Python imports for these arguments."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stderr
    names = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    assert "encodings" in names
    return names - {"imported package"}
