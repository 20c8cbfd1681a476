"""`instachat doctor`: what can bite, and the command that mends it."""

from typing import TYPE_CHECKING

from instachat_cli.console.options import Output
from instachat_cli.console.output import Body, Printer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.monitoring.doctor import Finding


def doctor(output: Output = None) -> None:
    """Examine every dependency and setting that can bite.

    $ instachat doctor

    Exits with 0 if no check found an error, with 5 if a dependency can't be reached, else with 4. Nothing
    is changed.
    """
    from backend.domain.errors import CheckFailed, EngineDown
    from backend.monitoring.doctor import Severity

    found: list[Finding] = []

    def bodies() -> "Iterator[Body]":
        for finding in _findings():
            found.append(finding)
            yield {
                "check": finding.check,
                "severity": str(finding.severity),
                "message": finding.message,
                "remedy": finding.remedy,
            }

    Printer(output).many(bodies(), ["severity", "check", "message"])
    errors = [finding for finding in found if finding.severity is Severity.ERROR]
    if away := [finding.check for finding in errors if finding.unreachable]:
        raise EngineDown(f"can't be reached: {', '.join(away)}", "see the remedy above")
    if errors:
        raise CheckFailed(
            f"{len(errors)} of {len(found)} checks found an error", "see the remedies"
        )


def _findings() -> "Iterator[Finding]":
    """Every finding; what keeps the others from being made is one itself."""
    from contextlib import closing

    from backend import bootstrap
    from backend.domain.errors import InstaChatError
    from backend.monitoring.doctor import Patient, examine, fault, ok
    from backend.settings import load
    from backend.storage.postgres import Database
    from backend.storage.redis.log import Log

    at_hand = "settings"
    try:
        settings = load()
        yield ok("settings", "all values can be used")
        at_hand = "private engines"
        with bootstrap.addresses(settings) as at, closing(Database(at.database)) as database:
            if at.engines:
                yield ok("private engines", f"are running, in {settings.home}")
            at_hand = "Redis"
            with closing(Log(at.redis)) as log:
                core = bootstrap.assemble(settings, at, database, log)
                yield from examine(
                    Patient(
                        settings,
                        database,
                        log,
                        core.index,
                        core.jobs.length,
                        lambda: bootstrap.durability_faults(settings, log),
                        core.syncer.lag,
                    )
                )
    except InstaChatError as error:
        yield fault(at_hand, error)
