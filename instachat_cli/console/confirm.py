"""Confirmation before data is deleted."""

import sys
from collections.abc import Callable
from typing import NamedTuple

from backend.domain.errors import Failed, Invalid
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr, visible


class Deletion(NamedTuple):
    """How a command deletes: `--yes` asks for no confirmation, `--dry-run` deletes nothing."""

    printer: Printer
    yes: bool
    dry_run: bool

    def run(self, description: str, body: Body, delete: Callable[[], None]) -> None:
        """Ask for confirmation, call `delete`, and print the outcome. The target is known to exist.

        Raises Failed if the user does not confirm.
        """
        if self.dry_run:
            outcome = f"would delete {description}; nothing was deleted"
            self.printer.outcome(body | {"deleted": False}, outcome)
            return
        if not self.yes:
            _confirm(description)
        delete()
        self.printer.outcome(body | {"deleted": True}, f"deleted {description}")


def check_can_ask(*, yes: bool, dry_run: bool) -> None:
    """Raise Invalid if confirmation is needed but there is no terminal. Called before anything else."""
    if not (yes or dry_run or (sys.stdin.isatty() and sys.stderr.isatty())):
        raise Invalid(
            "this command deletes data and needs confirmation, but there is no terminal;"
            " nothing was deleted",
            "use `--yes` to confirm, or `--dry-run` to see what would be deleted",
        )


def _confirm(description: str) -> None:
    """Ask whether to delete it; Failed unless the answer is yes."""
    sys.stderr.write(f"Delete {visible(description)}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        stderr.write_line("")
    if answer.strip().lower() not in ("y", "yes"):
        raise Failed("not confirmed; nothing was deleted")
