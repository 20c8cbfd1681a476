"""Check every dependency and common misconfigurations."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from instachat_cli.console.invocation import audit_only_changes, audited_with, note_count
from instachat_cli.console.options import Output
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from backend.monitoring.checks import CheckResult, SafeRepair

Fix = Annotated[
    bool, typer.Option("--fix", help="Repair what can be repaired safely, then check again.")
]


@audited_with("fix")
def doctor(fix: Fix = False, output: Output = None) -> None:
    """Check every dependency and common misconfigurations.

    $ instachat doctor
    $ instachat doctor --fix

    Exits with 5 if a dependency is unreachable, 4 if another check found an error, 0 otherwise: a warning
    alone is no error. Changes nothing, unless `--fix` is given: it brings the schema up to date, creates
    indexes that were dropped, and syncs counters, while everything goes on. The rest is left to you.
    """
    from backend.domain.errors import CheckFailed, EngineDown
    from backend.monitoring.checks import Severity

    repaired = _repair() if fix else None
    results: list[CheckResult] = []

    def bodies() -> "Iterator[Body]":
        for result in _results():
            results.append(result)
            body: Body = {
                "check": result.check,
                "severity": str(result.severity),
                "message": result.message,
                "remedy": result.remedy,
            }
            if repaired is not None:
                body["repaired"] = result.severity is Severity.OK and result.check in repaired
            yield body

    Printer(output).many(bodies(), ["severity", "check", "message"])
    errors = [result for result in results if result.severity is Severity.ERROR]
    if unreachable := [result.check for result in errors if result.unreachable]:
        raise EngineDown(f"unreachable: {', '.join(unreachable)}", "see the remedy above")
    if errors:
        raise CheckFailed(
            f"{len(errors)} of {len(results)} checks found an error", "see the remedies"
        )


def _repair() -> "set[str]":
    """Make the safe repairs of what the checks find; returns the checks that they were made for."""
    repaired = set()
    done: set[SafeRepair] = set()
    # A repair may show what the next one is for: without a schema nothing else is checked.
    while wanted := _wanted(_results(), done):
        for check, repair in wanted.items():
            repaired.add(check)
            if repair not in done:
                done.add(repair)
                _make(repair)
    audit_only_changes()
    if not repaired:
        stderr.note("nothing was found that can be repaired safely")
    return repaired


def _wanted(results: "Iterable[CheckResult]", done: "set[SafeRepair]") -> "dict[str, SafeRepair]":
    return {
        result.check: result.repair
        for result in results
        if result.repair is not None and result.repair not in done
    }


def _make(repair: "SafeRepair") -> None:
    """Make a repair. A failure is a warning: the checks that follow show what is left."""
    from backend.bootstrap import open_backend, open_database
    from backend.domain.errors import InstaChatError
    from backend.monitoring.audit_trail import AuditTrail
    from backend.monitoring.checks import SafeRepair
    from backend.settings import load
    from backend.storage.postgres import schema_objects
    from backend.storage.postgres.schema_upgrade import upgrade
    from instachat_cli.runtime.audit import recorded

    stderr.note(f"repairing: {repair}")
    settings = load()
    try:
        if repair is SafeRepair.MIGRATE:
            with open_database(settings) as database:
                upgrade(database)
                with recorded(lambda: AuditTrail(database)):
                    note_count("migrations", 1)
            return
        with open_backend(settings) as core, recorded(lambda: core.audit_trail):
            if repair is SafeRepair.SYNC_COUNTERS:
                for done, _ in enumerate(core.counter_sync.sync(), 1):
                    note_count("counts", done)
                return
            with core.database.connect() as connection:
                for done, index in enumerate(schema_objects.creatable_indexes(connection), 1):
                    schema_objects.create_index(connection, index)
                    note_count("indexes", done)
    except InstaChatError as error:
        stderr.warning(f"{repair}: {error.message}")


def _results() -> "Iterator[CheckResult]":
    """The result of every check. An error that prevents further checks is a result as well."""
    from backend import bootstrap
    from backend.domain.errors import InstaChatError
    from backend.monitoring.checks import error_result, ok_result
    from backend.monitoring.doctor import CheckContext, run_checks
    from backend.monitoring.setting_checks import check_variables
    from backend.settings import load

    current_check = "settings"
    try:
        settings = load()
        yield check_variables(os.environ)
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
                        core.epochs.recognition.find_wrong,
                    )
                )
    except InstaChatError as error:
        yield error_result(current_check, error)
