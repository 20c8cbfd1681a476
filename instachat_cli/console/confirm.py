"""Asking before something is destroyed."""

import sys
from collections.abc import Callable

from backend.domain.errors import Failed, Invalid
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr, visible


def check_can_ask(*, yes: bool, dry_run: bool) -> None:
    """Refuse, before anything is looked at, where nobody can be asked and `--yes` is not given."""
    if not (yes or dry_run or (sys.stdin.isatty() and sys.stderr.isatty())):
        raise Invalid(
            "this would delete, and there is no terminal to ask on; nothing was deleted",
            "`--yes` goes ahead, `--dry-run` only says what would be done",
        )


def delete(
    description: str,
    body: Body,
    action: Callable[[], None],
    *,
    printer: Printer,
    yes: bool,
    dry_run: bool,
) -> None:
    """Delete what is known to be there: asked about, only told about, or done at once."""
    if dry_run:
        printer.outcome(body | {"deleted": False}, f"would delete {description}; nothing was done")
        return
    if not yes:
        _confirm(description)
    action()
    printer.outcome(body | {"deleted": True}, f"deleted {description}")


def _confirm(description: str) -> None:
    """Ask whether to delete it; returns only on a yes."""
    sys.stderr.write(f"Delete {visible(description)}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        stderr.write_line("")
    if answer.strip().lower() not in ("y", "yes"):
        raise Failed("not confirmed; nothing was deleted")
