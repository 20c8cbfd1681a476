"""How `apps retention` sets a policy: it says how much is deleted at once, and asks."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from backend.domain.application_settings import OFF, checked_retention
from backend.domain.plurals import counted
from backend.domain.times import format_age
from instachat_cli.console.confirm import confirm
from instachat_cli.console.options import parse_duration
from instachat_cli.console.output import Body, Printer

if TYPE_CHECKING:
    from backend.bootstrap import Backend


def parse_age(age: str) -> int | None:
    """The age in seconds; None for OFF. Raises BadParameter, and Invalid if no policy can have it."""
    return None if age == OFF else checked_retention(parse_duration(age))


class RetentionSetting(NamedTuple):
    """The policy of an application that exists, whose name is known."""

    core: "Backend"
    printer: Printer
    token: str
    name: str

    def run(self, seconds: int | None, *, yes: bool, dry_run: bool) -> None:
        """Set the policy to an age, or remove it (None). Raises NotConfirmed if the answer is no."""
        if seconds is None:
            if not dry_run:
                self.core.retention.set(self.token, None)
            done = "would delete" if dry_run else "deletes"
            self._print(None, 0, f"no worker {done} messages of application “{self.name}”")
            return
        due = self.core.retention.bulk.count_older(
            datetime.now(UTC) - timedelta(seconds=seconds), self.token
        )
        which = (
            f"the messages of application “{self.name}” {format_age(seconds)} after their creation"
            f" ({counted(due, 'message')} at once)"
        )
        if dry_run:
            self._print(seconds, due, f"would delete {which}; nothing was changed")
            return
        if not yes:
            confirm(f"Delete {which}?", "nothing was changed")
        self.core.retention.set(self.token, seconds)
        self._print(seconds, due, f"a worker deletes {which}")

    def _print(self, seconds: int | None, due: int, sentence: str) -> None:
        age = None if seconds is None else format_age(seconds)
        body: Body = {"token": self.core.tokens.current(self.token), "retention": age, "due": due}
        self.printer.outcome(body, sentence)
