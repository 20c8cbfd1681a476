"""`instachat doctor`: what can bite, and the command that repairs it."""

from typing import TYPE_CHECKING

from instachat_cli.console.options import Output
from instachat_cli.console.output import Body, Printer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.monitoring.doctor import CheckResult


def doctor(output: Output = None) -> None:
    """Examine every dependency and setting that can bite.

    $ instachat doctor

    Exits with 0 if no check found an error, with 5 if a dependency can't be reached, else with 4. Nothing
    is changed.
    """
    from backend.domain.errors import CheckFailed, EngineDown
    from backend.monitoring.doctor import Severity

    found: list[CheckResult] = []

    def bodies() -> "Iterator[Body]":
        for result in _results():
            found.append(result)
            yield {
                "check": result.check,
                "severity": str(result.severity),
                "message": result.message,
                "remedy": result.remedy,
            }

    Printer(output).many(bodies(), ["severity", "check", "message"])
    errors = [result for result in found if result.severity is Severity.ERROR]
    if unreachable := [result.check for result in errors if result.unreachable]:
        raise EngineDown(f"can't be reached: {', '.join(unreachable)}", "see the remedy above")
    if errors:
        raise CheckFailed(
            f"{len(errors)} of {len(found)} checks found an error", "see the remedies"
        )


def _results() -> "Iterator[CheckResult]":
    """Every result; what keeps the others from being made is one itself."""
    from contextlib import closing

    from backend import bootstrap
    from backend.domain.errors import InstaChatError
    from backend.monitoring.doctor import CheckContext, error_result, ok_result, run_checks
    from backend.settings import load
    from backend.storage.postgres.database import Database
    from backend.storage.redis.log import Log

    current_check = "settings"
    try:
        settings = load()
        yield ok_result("settings", "all values can be used")
        current_check = "private engines"
        with bootstrap.engine_urls(settings) as urls, closing(Database(urls.database)) as database:
            if urls.engines:
                yield ok_result("private engines", f"are running, in {settings.home}")
            current_check = "Redis"
            with closing(Log(urls.redis)) as log:
                core = bootstrap.assemble(settings, urls, database, log)
                yield from run_checks(
                    CheckContext(
                        settings,
                        database,
                        log,
                        core.index,
                        core.jobs.length,
                        lambda: bootstrap.durability_faults(settings, log),
                        core.counter_sync.lag,
                    )
                )
    except InstaChatError as error:
        yield error_result(current_check, error)
