"""Confirmation before data is deleted, or before another decision that cannot be taken back."""

import sys
from collections.abc import Callable
from typing import NamedTuple

from backend.domain.errors import Failed, Invalid
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr, visible


class NotConfirmed(Failed):
    """The operator was asked, and did not confirm; nothing was changed."""


class Deletion(NamedTuple):
    """How a command deletes: `--yes` asks for no confirmation, `--dry-run` deletes nothing."""

    printer: Printer
    yes: bool
    dry_run: bool

    def run(self, description: str, body: Body, delete: Callable[[], None]) -> None:
        """Ask for confirmation, call `delete`, and print the outcome. The target is known to exist.

        Raises NotConfirmed if the user does not confirm.
        """
        if self.dry_run:
            outcome = f"would delete {description}; nothing was deleted"
            self.printer.outcome(body | {"deleted": False}, outcome)
            return
        if not self.yes:
            confirm(f"Delete {description}?", "nothing was deleted")
        delete()
        self.printer.outcome(body | {"deleted": True}, f"deleted {description}")


def check_can_ask(*, yes: bool, dry_run: bool, effect: str = "deletes data") -> None:
    """Raise Invalid if confirmation is needed but there is no terminal. Called before anything else."""
    if not (yes or dry_run or (sys.stdin.isatty() and sys.stderr.isatty())):
        raise Invalid(
            f"this command {effect} and needs confirmation, but there is no terminal;"
            " nothing was done",
            "use `--yes` to confirm, or `--dry-run` to see what would be done",
        )


def confirm(question: str, otherwise: str) -> None:
    """Ask the question; NotConfirmed, which says what is true `otherwise`, unless the answer is yes."""
    sys.stderr.write(f"{visible(question)} [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        stderr.write_line("")
    if answer.strip().lower() not in ("y", "yes"):
        raise NotConfirmed(f"not confirmed; {otherwise}")
