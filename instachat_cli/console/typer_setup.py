"""Declaration of commands: Typer, with help that starts with an example.

The example is the lines of the docstring that start with `$`; help shows them above everything else.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., None])

_CLAUSES = re.compile("[,;] ")
_CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


def group(
    help: str,  # noqa: A002  # Typer's own word
    name: str | None = None,
    cls: "type[Group] | None" = None,
) -> typer.Typer:
    """A command that has subcommands, such as a noun with its verbs. `help` is formatted like a docstring."""
    return typer.Typer(
        name=name,
        cls=cls or Group,
        help=help,
        add_completion=False,
        rich_markup_mode=None,  # Rich alone would double the time of `--help`
        pretty_exceptions_enable=False,
        context_settings=_CONTEXT_SETTINGS,
    )


def command(app: typer.Typer, name: str | None = None) -> Callable[[Function], Function]:
    """Declare a command of a group; its help is the function's docstring."""
    return app.command(name, cls=Command, context_settings=_CONTEXT_SETTINGS)


class _ExampleFirstHelp:
    """Help that shows the docstring's example first."""

    help: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write example, usage, description and options."""
        for line in _examples(self.help or ""):
            formatter.write(line + "\n")
        formatter.write("\n")
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Typer's pieces, without the braces around required arguments."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.strip("{}") for piece in pieces]

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence; clauses at the end of one that is too long are left out."""
        paragraph = " ".join(_description(self.help or "").strip().partition("\n\n")[0].split())
        sentence = paragraph.partition(". ")[0].rstrip(".")
        while len(sentence) >= limit and (clauses := _CLAUSES.split(sentence))[1:]:
            sentence = sentence[: -len(clauses[-1])].rstrip(",; ")
        return sentence + "."

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring without its example."""
        full_help, self.help = self.help, _description(self.help or "")
        super().format_help_text(ctx, formatter)  # type: ignore[misc]
        self.help = full_help


class Command(_ExampleFirstHelp, TyperCommand):
    """A command without subcommands."""


class Group(_ExampleFirstHelp, TyperGroup):
    """A command with subcommands, such as a noun, or the program itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, show the help."""
        return super().parse_args(ctx, args or ["--help"])


def _examples(docstring: str) -> list[str]:
    return [line.strip() for line in docstring.splitlines() if line.strip().startswith("$ ")]


def _description(docstring: str) -> str:
    return "\n".join(line for line in docstring.splitlines() if not line.strip().startswith("$ "))
