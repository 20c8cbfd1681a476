"""Writes docs/cli.md: every command with its examples, arguments and options, from the program itself.

`make docs` runs it. With `--check` nothing is written; it exits with 1 if the page differs.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from instachat_cli.console.typer_setup import description, examples
from instachat_cli.program import app, command_modules, summary

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """\
# The command line

Generated from the program by `make docs`; a test compares them. `instachat COMMAND --help` shows the same.

Every command also takes `--verbose` and `--help`. Formats, exit codes and settings are in the
[README](../README.md#reference). `instachat --install-completion` installs completion for bash, zsh or fish:
of commands, options, and, where the database answers within 0.2 s, tokens and numbers of chats."""
EVERYWHERE = ("--verbose", "--help")


def reference() -> str:
    """The whole page."""
    root: Any = get_command(app)
    parts = [HEAD]
    for name in command_modules():
        parts += ["", f"## {name}", *_commands(name, root.commands[name])]
    return "\n".join(parts) + "\n"


def _commands(name: str, command: Any) -> Iterator[str]:
    """A command, or the summary of a group and its commands."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield from _section(name, command)
        return
    yield from ["", summary(name)]
    for verb, each in inner.items():
        yield from ["", f"### {name} {verb}"]
        yield from _section(f"{name} {verb}", each)


def _section(path: str, command: Any) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from ["", "```", *examples(command.help), "```", ""]
    yield f"Usage: `instachat {path} {pieces}`"
    for paragraph in description(command.help).strip().split("\n\n"):
        yield from ["", " ".join(paragraph.split())]
    rows = [_row(each, context) for each in command.params if not getattr(each, "hidden", False)]
    if shown := [row for row in rows if row]:
        yield from ["", "| | |", "| --- | --- |", *shown]


def _row(parameter: Any, context: Any) -> str | None:
    """The row of an argument or an option; None for those that every command has."""
    if any(option in EVERYWHERE for option in parameter.opts):
        return None
    record = parameter.get_help_record(context)
    assert record, "what is not hidden has a line in the help"
    names, text = record
    return f"| `{_cell(' '.join(names.split()))}` | {_cell(' '.join(text.split()))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    page = reference()
    if "--check" in sys.argv:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
