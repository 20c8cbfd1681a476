"""`instachat status`: lags, rates, queue, dead letters, and the engines' health."""

import time
from datetime import UTC
from typing import TYPE_CHECKING, Annotated

import typer

from instachat_cli.console.options import Output
from instachat_cli.console.output import Body, Printer, StatusView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.monitoring.status import Rates, Status, Totals
    from backend.settings import Settings
    from backend.storage.postgres.reconciliations import LastReconciliation

REFRESH_SECONDS = 1.0
SAMPLE_SECONDS = 0.4  # between the two looks that a rate is made of
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")]


def status(watch: Watch = False, output: Output = None) -> None:
    """Show what waits, who works on it, and how the engines are.

    $ instachat status --watch

    Exits with 5 if an engine does not answer.
    """
    from contextlib import closing

    from backend import bootstrap
    from backend.domain.errors import EngineDown
    from backend.monitoring.status import read_status, read_totals
    from backend.settings import load
    from backend.storage.postgres.database import Database
    from backend.storage.redis.log import Log

    settings = load()
    with (
        bootstrap.engine_urls(settings) as urls,
        closing(Database(urls.database)) as database,
        closing(Log(urls.redis)) as log,
    ):
        core = bootstrap.assemble(settings, urls, database, log)

        def fetch_status() -> "Status":
            return read_status(database, log, core.jobs.length, core.index, core.counter_sync.lag)

        before = read_totals(database, log, core.index)
        time.sleep(SAMPLE_SECONDS)
        if watch:
            Printer(output).watch(_poll(fetch_status, before, settings))
        else:
            found = fetch_status()
            Printer(output).view(_snapshot(found, before, settings))
            if unreachable := [engine for engine in found.engines if engine.problem]:
                raise EngineDown(
                    "; ".join(str(engine.problem) for engine in unreachable),
                    "see `instachat doctor`",
                )


def _poll(
    fetch_status: "Callable[[], Status]", before: "Totals", settings: "Settings"
) -> "Iterator[StatusView]":
    while True:
        found = fetch_status()
        yield _snapshot(found, before, settings)
        before = found.totals
        time.sleep(REFRESH_SECONDS)


def _snapshot(found: "Status", before: "Totals", settings: "Settings") -> StatusView:
    from backend.domain.serialization import rfc3339
    from backend.monitoring.status import compute_rates

    rate = compute_rates(before, found.totals)
    body: Body = {
        "engines": [
            {
                "engine": engine.engine,
                "reachable": engine.problem is None,
                "version": engine.version,
                "problem": engine.problem,
            }
            for engine in found.engines
        ],
        "schema": found.schema,
        "durability": str(settings.durability),
        "workers": found.workers,
        "queue": found.queue,
        "paused": found.paused,
        "not_stored": found.waiting,
        "oldest_seconds": found.oldest_seconds and round(found.oldest_seconds, 3),
        "not_searchable": found.unpublished,
        "not_searchable_seconds": found.unpublished_seconds and round(found.unpublished_seconds, 3),
        "search_index": found.search_index,
        "dead_letters": None if found.dead_letters is None else sum(found.dead_letters.values()),
        "dead_letters_by_kind": found.dead_letters,
        "counters_not_synced": found.dirty_counters,
        "sync_lag_seconds": found.sync_lag_seconds and round(found.sync_lag_seconds, 3),
        "accepted_per_second": _round(rate.accepted),
        "stored_per_second": _round(rate.stored),
        "searchable_per_second": _round(rate.searchable),
        "reconciled": found.reconciled
        and {
            "at": rfc3339(found.reconciled.finished_at),
            "differences": found.reconciled.findings,
            "repaired": found.reconciled.repaired,
        },
    }
    shown = {
        engine.engine: engine.problem or f"{engine.version}, answers" for engine in found.engines
    }
    stored = _format_waiting(_count(found.waiting, "entry", "entries"), found.oldest_seconds)
    searchable = _format_waiting(_count(found.unpublished, "", ""), found.unpublished_seconds)
    if settings.elasticsearch_url is None:
        searched = "by PostgreSQL"
        # What is left from a time when it was set grows on; nobody waits for it.
        searchable = f"0; {searchable} noted for Elasticsearch" if found.unpublished else "0"
    else:
        searched = found.search_index or "no index: run `instachat reindex`"
    shown |= {
        "schema": found.schema or "-",
        "durability": str(settings.durability),
        "workers": _count(found.workers, "running", "running"),
        "job queue": _count(found.queue, "job waits", "jobs wait")
        + ("; PAUSED until `instachat queue resume`" if found.paused else ""),
        "not stored yet": stored,
        "not searchable yet": searchable,
        "searched": searched,
        "dead letters": _format_dead_letters(found.dead_letters),
        "counters to sync": _format_waiting(
            _count(found.dirty_counters, "", ""), found.sync_lag_seconds
        ),
        "last reconcile": _format_reconciliation(found.reconciled),
        "per second": _format_rates(rate),
    }
    return StatusView(body, shown)


def _format_waiting(count: str, seconds: float | None) -> str:
    return count if not seconds else f"{count}, the oldest for {seconds:,.1f} s"


def _round(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _format_rates(rate: "Rates") -> str:
    each = {"accepted": rate.accepted, "stored": rate.stored, "searchable": rate.searchable}
    return ", ".join(
        f"{'unknown' if found is None else f'{found:,.0f}'} {name}" for name, found in each.items()
    )


def _format_dead_letters(letters: "dict[str, int] | None") -> str:
    if letters is None:
        return "unknown"
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in letters.items() if count)
    return f"{kinds}: see `instachat dead list`" if kinds else "0"


def _format_reconciliation(last: "LastReconciliation | None") -> str:
    if last is None:
        return "never"
    at = f"{last.finished_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    said = f"{at}, {_count(last.findings, 'difference', 'differences')}"
    return f"{said}, {last.repaired:,} repaired" if last.repaired else said


def _count(count: int | None, one: str, many: str) -> str:
    return "unknown" if count is None else f"{count:,} {one if count == 1 else many}".rstrip()
