"""Help: quick, complete, and led by an example."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from instachat_cli.program import REGISTRY, app
from tests.cli.conftest import Cli


def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, with the words that name it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*path, name))


COMMANDS = dict(tree(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "instachat")
def test_help_leads_with_an_example(cli: Cli, path: tuple[str, ...]) -> None:
    """Its first line can be typed; it fits in 80 columns; each option and argument is explained."""
    shown = cli(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    example = shown.out.splitlines()[0]
    assert example.startswith(f"$ instachat {' '.join(path)}".rstrip()), shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "..." not in shown.out.partition("Commands:")[2]  # no description is cut
    for parameter in COMMANDS[path].params:
        assert getattr(parameter, "help", None), parameter.name
    assert cli(*path, "-h").out == shown.out


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if hasattr(c, "commands")])
def test_a_noun_alone_shows_its_help(cli: Cli, path: tuple[str, ...]) -> None:
    """As does the program alone."""
    assert cli(*path).out == cli(*path, "--help").out
    assert cli(*path).code == 0


@pytest.mark.parametrize("name", REGISTRY)
def test_the_program_help_agrees_with_each_commands_help(name: str) -> None:
    """The help of the program imports no command, and is true all the same."""
    assert COMMANDS[name,].get_short_help_str(59) == REGISTRY[name].summary


def test_version(cli: Cli) -> None:
    """The version on standard output, as a line."""
    shown = cli.run_process("--version")
    assert shown.code == 0
    assert shown.out.startswith("instachat")
    assert len(shown.out.splitlines()) == 1


@pytest.mark.alone
def test_help_takes_at_most_one_and_a_half_times_its_libraries(tmp_path: Path) -> None:
    """`instachat --help` against `import typer, rich`: medians of interleaved runs."""
    # Compiled modules are kept, as they are on a user's machine.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def seconds(*words: str) -> float:
        since = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, env=env, stdout=subprocess.DEVNULL)
        return time.perf_counter() - since

    libraries, ours = ["-c", "import typer, rich"], ["-m", "instachat_cli", "--help"]
    for words in (libraries, ours):
        seconds(*words)
    runs = [(seconds(*libraries), seconds(*ours)) for _ in range(15)]
    theirs, own = (statistics.median(times) for times in zip(*runs, strict=True))
    assert own <= 1.5 * theirs
