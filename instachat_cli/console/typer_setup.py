"""How a command is declared: Typer, with help that leads with an example.

The example is the docstring's part in which lines start with `$`; help shows it above everything else.
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
    """A command that has commands, such as a noun with its verbs. `help` is as a docstring."""
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
    """Declare a command of a group; the function's docstring is its help."""
    return app.command(name, cls=Command, context_settings=_CONTEXT_SETTINGS)


class _ExampleFirstHelp:
    """Help that shows the docstring's example first."""

    help: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Example, usage, description, options."""
        for line in _examples(self.help or ""):
            formatter.write(line + "\n")
        formatter.write("\n")
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As usual, without the braces around what is required."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.strip("{}") for piece in pieces]

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence; of one that is too long, what stands before a comma or semicolon."""
        paragraph = " ".join(_description(self.help or "").strip().partition("\n\n")[0].split())
        sentence = paragraph.partition(". ")[0].rstrip(".")
        while len(sentence) >= limit and (clauses := _CLAUSES.split(sentence))[1:]:
            sentence = sentence[: -len(clauses[-1])].rstrip(",; ")
        return sentence + "."

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """The docstring without its example."""
        full_help, self.help = self.help, _description(self.help or "")
        super().format_help_text(ctx, formatter)  # type: ignore[misc]
        self.help = full_help


class Command(_ExampleFirstHelp, TyperCommand):
    """A verb."""


class Group(_ExampleFirstHelp, TyperGroup):
    """A noun, or the program itself. Alone it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual; nothing at all asks for help."""
        return super().parse_args(ctx, args or ["--help"])


def _examples(docstring: str) -> list[str]:
    return [line.strip() for line in docstring.splitlines() if line.strip().startswith("$ ")]


def _description(docstring: str) -> str:
    return "\n".join(line for line in docstring.splitlines() if not line.strip().startswith("$ "))
