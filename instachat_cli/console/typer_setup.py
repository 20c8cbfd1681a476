"""Declaration of commands: Typer, with help that starts with examples, and with `--verbose` everywhere.

The examples are the lines of the docstring that start with `$`; help shows them above everything else.
"""

import inspect
import os
import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from instachat_cli.console.invocation import Invocation, describe_target, is_audited, running
from instachat_cli.console.stderr import stderr

Function = TypeVar("Function", bound=Callable[..., None])

TOKEN_VARIABLE = "INSTACHAT_TOKEN"
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Also say what happens inside, on standard error.")
]
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
    """Declare a command of a group; its help is the function's docstring. It also takes `--verbose`."""

    def declare(function: Function) -> Function:
        register = app.command(name, cls=Command, context_settings=_CONTEXT_SETTINGS)
        register(_with_verbose(function))
        return function

    return declare


def _with_verbose(function: Callable[..., None]) -> Callable[..., None]:
    """The command with one more option, which it does not see itself."""

    @wraps(function)
    def run(*, verbose: bool, **arguments: Any) -> None:
        stderr.verbose = verbose
        function(**arguments)

    signature = inspect.signature(function)
    option = Parameter("verbose", Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option]
    )
    run.__annotations__ = {**function.__annotations__, "verbose": Verbose}
    return run


class _ExampleFirstHelp:
    """Help that shows the docstring's example first."""

    help: str | None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write examples, usage, description and options."""
        formatter.write("Examples:\n")
        for line in examples(self.help or ""):
            formatter.write(f"  {line}\n")
        formatter.write("\n")
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Typer's pieces, without the braces around required arguments."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.strip("{}") for piece in pieces]

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Typer's suggestions. zsh drops an apostrophe of their help, but no typographic one."""
        items: list[Any] = list(super().shell_complete(ctx, incomplete))  # type: ignore[misc]
        for item in items:
            item.help = item.help and item.help.replace("'", "’")
        return items

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence; clauses at the end of one that is too long are left out."""
        paragraph = " ".join(description(self.help or "").strip().partition("\n\n")[0].split())
        sentence = paragraph.partition(". ")[0].rstrip(".")
        while len(sentence) >= limit and (clauses := _CLAUSES.split(sentence))[1:]:
            sentence = sentence[: -len(clauses[-1])].rstrip(",; ")
        return sentence + "."

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring without its example."""
        full_help, self.help = self.help, description(self.help or "")
        super().format_help_text(ctx, formatter)  # type: ignore[misc]
        self.help = full_help


class Command(_ExampleFirstHelp, TyperCommand):
    """A command without subcommands. TOKEN_VARIABLE stands for a token that is left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; if the token was left out, with the one of the environment."""
        token = os.environ.get(TOKEN_VARIABLE)
        arguments = [each for each in self.params if isinstance(each, TyperArgument)]
        if token and arguments and arguments[0].name == "token":
            values, _, _ = self.make_parser(ctx).parse_args(list(args))
            missing = [each for each in arguments if values.get(each.name) is None]
            is_given = _is_token(str(values.get("token")))
            # While a shell completes them, arguments are missing in any case.
            required = any(each.required for each in missing) and not ctx.resilient_parsing
            if required or (missing and not is_given):
                args = [token, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, known to the audit trail."""
        audited = is_audited(self.callback, ctx.params)
        target = describe_target(self.params, ctx.params) if audited else ""
        name = ctx.command_path.partition(" ")[2]
        with running(Invocation(name, target, audited=audited)):
            return super().invoke(ctx)


class Group(_ExampleFirstHelp, TyperGroup):
    """A command with subcommands, such as a noun, or the program itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, show the help."""
        return super().parse_args(ctx, args or ["--help"])


def _is_token(value: str) -> bool:
    from backend.domain.model import TOKEN_PATTERN

    return re.fullmatch(TOKEN_PATTERN, value) is not None


def examples(docstring: str) -> list[str]:
    """The lines of a docstring that are examples."""
    return [line.strip() for line in docstring.splitlines() if line.strip().startswith("$ ")]


def description(docstring: str) -> str:
    """The docstring without its examples."""
    return "\n".join(line for line in docstring.splitlines() if not line.strip().startswith("$ "))
