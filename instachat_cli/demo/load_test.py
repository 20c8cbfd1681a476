"""The demo's last chapter: a short load test over HTTP, and its audit."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from backend.domain.errors import CheckFailed, Failed

if TYPE_CHECKING:
    from rich.console import Console

    from loadtest.report.result import Result

SECONDS, USERS = 6.0, 8


def run_load_test(console: "Console") -> dict[str, Any]:
    """Load the API on the demo's engines, where a worker must run; returns the measurements by name.

    Raises CheckFailed if a message is lost, doubled or changed.
    """
    from loadtest.errors import CouldNotRun
    from loadtest.run import runner
    from loadtest.run.choices import Profile, Scenario
    from loadtest.run.installation import api_server
    from loadtest.run.plan import plan

    smoke = plan(Scenario.MIXED, Profile.SMOKE, seed=1, users=USERS, seconds=SECONDS)
    try:
        with api_server() as host:
            result = runner.run_load(runner.RunOptions(smoke, host), lambda _: None)
    except CouldNotRun as error:
        raise Failed(f"the load test could not run: {error}") from None
    console.print(
        f"For {SECONDS:.0f} s {USERS} users send, list, search, edit, delete and open chats. Then the\n"
        "audit compares every answer with what is stored and found.\n"
    )
    console.print(_table(result))
    if result.audit.faults:
        raise CheckFailed(
            f"stored messages differ from the answers: {'; '.join(result.problems)}",
            "please report this",
        )
    audit = result.audit
    return {
        "load_requests_per_second": result.total.rate,
        "load_p99_ms": result.total.p99_ms,
        "load_failures": result.total.failures,
        "load_answered": audit.answered,
        "load_stored": audit.stored,
        "load_searchable": audit.searchable,
        "load_faults": sum(audit.faults.values()),
    }


def _table(result: "Result") -> Table:
    total, audit, lag = result.total, result.audit, result.lag_ms.stored
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_row(f"{total.rate:,.0f}/s", f"requests; {total.failures:,} failed")
    if total.p50_ms is not None and total.p99_ms is not None:
        table.add_row(
            f"{total.p50_ms:.1f} ms", f"median latency (99th percentile: {total.p99_ms:.1f} ms)"
        )
    if lag.p50 is not None:
        table.add_row(
            f"{lag.p50:.1f} ms", f"median from an answer to its row ({lag.samples} samples)"
        )
    table.add_row(f"{audit.answered:,}", "numbers answered, whose messages must exist")
    table.add_row(f"{audit.stored:,}", "of them stored with the right text")
    table.add_row(f"{audit.searchable:,}", "of them found by search")
    table.add_row(f"{sum(audit.faults.values())}", "lost, doubled, missing or changed")
    return table
