"""Continue in a Redis that does not know this installation."""

from backend.domain.errors import UnknownRedis
from instachat_cli.console.confirm import check_can_ask, confirm
from instachat_cli.console.options import DryRunFlag, Output, Yes
from instachat_cli.console.output import Printer
from instachat_cli.runtime.context import backend_context


def adopt_redis(yes: Yes = False, dry_run: DryRunFlag = False, output: Output = None) -> None:
    """Continue in a Redis that does not know this installation.

    $ instachat adopt-redis

    For a Redis that replaces one whose data are lost for good. All other commands refuse it, because two
    Redises that issue numbers for one installation would issue each number twice: first check
    INSTACHAT_REDIS_URL, and stop all programs that use another one. Numbers continue above all stored ones.
    What was accepted and not stored yet is lost.
    """
    check_can_ask(yes=yes, dry_run=dry_run, effect="replaces the installation's Redis")
    printer = Printer(output)
    with backend_context() as core:
        wrong = core.epochs.recognition.find_wrong()
        if wrong is None:
            printer.outcome(
                {"adopted": False}, "nothing to adopt: this Redis can be used by this installation"
            )
            return
        if not isinstance(wrong, UnknownRedis):
            raise wrong
        if dry_run:
            printer.outcome(
                {"adopted": False}, "would adopt this Redis for the installation; nothing was done"
            )
            return
        if not yes:
            confirm(
                "Are the data of the former Redis lost, and does no program use it?",
                "nothing was done",
            )
        core.epochs.adopt()
        printer.outcome(
            {"adopted": True},
            "adopted: this Redis issues the installation's numbers now, above all stored ones",
        )
