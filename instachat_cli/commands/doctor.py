"""Check every dependency and common misconfigurations."""

from typing import TYPE_CHECKING

from instachat_cli.console.options import Output
from instachat_cli.console.output import Body, Printer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.monitoring.checks import CheckResult


def doctor(output: Output = None) -> None:
    """Check every dependency and common misconfigurations.

    $ instachat doctor

    Exits with 5 if a dependency is unreachable, 4 if another check found an error, 0 otherwise: a warning
    alone is no error. Changes nothing.
    """
    from backend.domain.errors import CheckFailed, EngineDown
    from backend.monitoring.checks import Severity

    results: list[CheckResult] = []

    def bodies() -> "Iterator[Body]":
        for result in _results():
            results.append(result)
            yield {
                "check": result.check,
                "severity": str(result.severity),
                "message": result.message,
                "remedy": result.remedy,
            }

    Printer(output).many(bodies(), ["severity", "check", "message"])
    errors = [result for result in results if result.severity is Severity.ERROR]
    if unreachable := [result.check for result in errors if result.unreachable]:
        raise EngineDown(f"unreachable: {', '.join(unreachable)}", "see the remedy above")
    if errors:
        raise CheckFailed(
            f"{len(errors)} of {len(results)} checks found an error", "see the remedies"
        )


def _results() -> "Iterator[CheckResult]":
    """The result of every check. An error that prevents further checks is a result as well."""
    from backend import bootstrap
    from backend.domain.errors import InstaChatError
    from backend.monitoring.checks import error_result, ok_result
    from backend.monitoring.doctor import CheckContext, run_checks
    from backend.settings import load

    current_check = "settings"
    try:
        settings = load()
        yield ok_result("settings", "all values are valid")
        current_check = "private engines"
        with bootstrap.engine_urls(settings) as urls:
            if urls.engines:
                yield ok_result("private engines", f"running in {settings.home}")
            current_check = "Redis"
            with bootstrap.open_parts(settings, urls) as core:
                yield from run_checks(
                    CheckContext(
                        settings,
                        core.database,
                        core.log,
                        core.workers,
                        core.index,
                        core.jobs.length,
                        core.counter_sync.lag,
                    )
                )
    except InstaChatError as error:
        yield error_result(current_check, error)
