"""Errors as messages and exit codes: the only place that maps one to the other.

    0 success                  3 not_found      6 conflict
    1 failed                   4 check_failed   130 interrupted
    2 invalid (also usage)     5 unavailable, unconfirmed

After `unavailable` nothing was changed; after `unconfirmed` the change may have been made.

With `-o json` a failure is one JSON object on standard error, otherwise an `error:` and a `hint:` line.
Users never see a traceback, unless the error is unexpected, and `--verbose` or `INSTACHAT_DEBUG=1` asks for
it.
"""

import os
from typing import NamedTuple

from typer.exceptions import TyperException

from backend.domain.errors import (
    CheckFailed,
    Conflict,
    InstaChatError,
    Invalid,
    NotFound,
    Unavailable,
    Unconfirmed,
)
from instachat_cli.console.stderr import stderr


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a message that tells what the command had done by then."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CommandFailure(NamedTuple):
    """A failure as the user sees it."""

    code: int
    name: str
    message: str
    hint: str | None = None


EXIT_CODES: tuple[tuple[type[InstaChatError], int, str], ...] = (
    (Invalid, 2, "invalid"),
    (NotFound, 3, "not_found"),
    (CheckFailed, 4, "check_failed"),
    (Unconfirmed, 5, "unconfirmed"),
    (Unavailable, 5, "unavailable"),
    (Conflict, 6, "conflict"),
    (InstaChatError, 1, "failed"),
)


def report_error(error: BaseException) -> int:
    """Write the error to standard error; returns the exit code."""
    failure = describe_error(error)
    if stderr.as_json:
        from instachat_cli.console.output import dumps

        body = {"error": failure.name, "message": failure.message, "hint": failure.hint}
        stderr.write_line(dumps(body))
    else:
        stderr.error(failure.message, failure.hint)
    return failure.code


def error_name(error: BaseException) -> str:
    """The name of a command's failure, as in JSON."""
    if isinstance(error, KeyboardInterrupt | BrokenPipeError):
        return "interrupted"
    if isinstance(error, TyperException):
        return "invalid"
    return next((name for kind, _, name in EXIT_CODES if isinstance(error, kind)), "failed")


def describe_error(error: BaseException) -> CommandFailure:
    """How an exception is reported."""
    match error:
        case InstaChatError():
            code = next(code for kind, code, _ in EXIT_CODES if isinstance(error, kind))
            return CommandFailure(code, error_name(error), error.message, error.hint)
        case TyperException():
            return CommandFailure(
                2, "invalid", _sentence(error.format_message()), _usage_hint(error)
            )
        case KeyboardInterrupt():
            return CommandFailure(130, "interrupted", getattr(error, "message", "interrupted"))
        case OSError():
            return CommandFailure(1, "failed", f"{error.strerror or error}".lower())
        case MemoryError():
            return CommandFailure(1, "failed", "there is not enough memory")
    if stderr.verbose or os.environ.get("INSTACHAT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return CommandFailure(
        1,
        "failed",
        f"unexpected {type(error).__name__}: this is a bug in InstaChat; please report it",
        "run the command with --verbose for a traceback",
    )


def _sentence(text: str) -> str:
    """Typer's message in the form of all messages: one line, without a capital and a full stop."""
    line = " ".join(text.split()).removesuffix(".")
    return line[:1].lower() + line[1:]


def _usage_hint(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path if context else 'instachat'} --help`"
    if str(getattr(error, "option_name", "")).startswith("-"):
        hint += "; put a text that starts with a dash after `--`"
    return hint
