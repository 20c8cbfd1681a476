"""Show whether all is well, backlogs, workers and engines."""

import time
from dataclasses import asdict
from datetime import UTC
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.plurals import counted
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.options import Output
from instachat_cli.console.output import Body, Printer, StatusView, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backend.monitoring.status import EngineStatus, Rates, RedisNodesStatus, Status, Totals
    from backend.settings import Settings
    from backend.storage.postgres.reconciliations import LastReconciliation
    from backend.storage.postgres.shards import Rewind

REFRESH_SECONDS = 1.0
SAMPLE_SECONDS = 0.4  # between the two samples that a rate is computed from
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C; as JSON lines with -o json.")
]


@not_audited
def status(watch: Watch = False, output: Output = None) -> None:
    """Show whether all is well, backlogs, workers and engines.

    $ instachat status --watch

    Begins with a verdict and what to do. Exits with 4 if something has been waiting for too long: 10
    seconds to be stored or to be searchable, 2 hours to be counted in SQL; and with 5 if an engine, or a
    shard of Redis, does not answer, or if this Redis is not the installation's.
    """
    from backend.bootstrap import open_unchecked
    from backend.domain.errors import CheckFailed, EngineDown
    from backend.monitoring.status import read_status, read_totals
    from backend.monitoring.summary import late_stages
    from backend.settings import load

    settings = load()
    with open_unchecked(settings) as core:

        def fetch_status() -> "Status":
            return read_status(
                core.database,
                core.log,
                core.workers,
                core.jobs.length,
                core.index,
                core.counter_sync.lag,
                core.epochs.recognition.find_refusal,
                count_unstored=True,
            )

        before = read_totals(core.database, core.log, core.index)
        time.sleep(SAMPLE_SECONDS)
        if watch:
            Printer(output).watch(_poll(fetch_status, before, settings))
        else:
            now = fetch_status()
            Printer(output).view(_view(now, before, settings))
            problems = [problem for engine in now.engines if (problem := _problem(engine, now))]
            if now.wrong_redis:
                raise now.wrong_redis
            if problems:
                raise EngineDown("; ".join(problems), "see `instachat doctor`")
            if late := late_stages(now, publishes=core.index is not None):
                raise CheckFailed("; ".join(late), "see what the report advises")


def _poll(
    fetch_status: "Callable[[], Status]", before: "Totals", settings: "Settings"
) -> "Iterator[StatusView]":
    while True:
        now = fetch_status()
        yield _view(now, before, settings)
        before = now.totals
        time.sleep(REFRESH_SECONDS)


def _view(now: "Status", before: "Totals", settings: "Settings") -> StatusView:
    from backend.domain.serialization import rfc3339
    from backend.monitoring.health import HealthSnapshot
    from backend.monitoring.status import compute_rates
    from backend.monitoring.summary import (
        HealthState,
        format_reshard,
        group_figures,
        summarize,
    )

    rate = compute_rates(before, now.totals)
    snapshot = HealthSnapshot.of(now, rate)
    summary = summarize(group_figures(snapshot))
    severities = {
        HealthState.OK: "ok",
        HealthState.UNKNOWN: "unknown",
        HealthState.WARNING: "warning",
        HealthState.CRITICAL: "error",
    }
    verdict = Verdict(severities[summary.state], summary.sentence, summary.advice)
    unstored = now.unstored
    body: Body = {
        "at": rfc3339(snapshot.at),
        "verdict": summary.state.value,
        "sentence": summary.sentence,
        "advice": summary.advice,
        "engines": [
            {
                "engine": engine.engine,
                "reachable": engine.problem is None,
                "version": engine.version or engine.version_note,
                "problem": _problem(engine, now),
                "shards_away": list(engine.shards_away),
            }
            for engine in now.engines
        ],
        "redis_nodes": now.redis_nodes and _nodes_body(now.redis_nodes),
        "schema": now.schema and now.schema.number,
        "durability": str(settings.durability),
        "workers": now.workers,
        "queue": now.queue,
        "paused": now.paused,
        "not_stored": now.waiting,
        "messages_not_stored": unstored and unstored.messages,
        "chats_not_stored": unstored and unstored.chats,
        "not_stored_exact": unstored and unstored.exact,
        "oldest_seconds": now.oldest_seconds and round(now.oldest_seconds, 3),
        "not_searchable": now.unpublished,
        "not_searchable_seconds": now.unpublished_seconds and round(now.unpublished_seconds, 3),
        "search_index": now.search_index,
        "dead_letters": None if now.dead_letters is None else sum(now.dead_letters.values()),
        "dead_letters_by_kind": now.dead_letters,
        "counters_not_synced": now.dirty_counters,
        "sync_lag_seconds": now.sync_lag_seconds and round(now.sync_lag_seconds, 3),
        "rate_limits": now.rate_limits,
        "accepted_per_second": _round(rate.accepted),
        "stored_per_second": _round(rate.stored),
        "searchable_per_second": _round(rate.searchable),
        "rewound": now.rewound and {"at": rfc3339(now.rewound.at), "lost": now.rewound.lost},
        "reshard": now.reshard and asdict(now.reshard),
        "reconciled": now.reconciled
        and {
            "at": rfc3339(now.reconciled.finished_at),
            "differences": now.reconciled.findings,
            "repaired": now.reconciled.repaired,
        },
    }
    shown = {
        engine.engine: _problem(engine, now) or f"{engine.version or engine.version_note}, answers"
        for engine in now.engines
    }
    if now.redis_nodes and now.redis_nodes.nodes > 1:
        shown["Redis's nodes"] = _format_nodes(now.redis_nodes)
    elif now.redis_nodes and now.redis_nodes.memory_share is not None:
        shown["Redis's memory"] = f"{now.redis_nodes.memory_share:.0%} used"
    is_partial = any(engine.shards_away for engine in now.engines)
    of_others = " in the other shards" if is_partial else ""
    stored = _format_waiting(_format_unstored(now), now.oldest_seconds)
    searchable = _format_waiting(_count(now.unpublished, "", ""), now.unpublished_seconds)
    if settings.elasticsearch_url is None:
        searched = "by PostgreSQL"
        # Changes that were queued while Elasticsearch was configured keep ageing; no search depends on them.
        searchable = f"0; {searchable} queued for Elasticsearch" if now.unpublished else "0"
    else:
        searched = now.search_index or "no index: run `instachat reindex`"
    shown = {"time": f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"} | shown
    shown |= {
        "schema": now.schema.number if now.schema else "-",
        "durability": str(settings.durability),
        "workers": _count(now.workers, "running", "running"),
        "job queue": _count(now.queue, "job waits", "jobs wait")
        + ("; PAUSED until `instachat queue resume`" if now.paused else ""),
        "not stored yet": stored + of_others,
        "not searchable yet": searchable,
        "searched": searched,
        "dead letters": _format_dead_letters(now.dead_letters),
        "counters to sync": _format_unsynced(now) + of_others,
        "rate limits": _count(now.rate_limits, "application has one", "applications have one"),
        "last reconcile": _format_reconciliation(now.reconciled),
        "went back in time": _format_rewind(now.rewound),
        "per second": _format_rates(rate),
    }
    if now.reshard:
        shown["reshard"] = format_reshard(now.reshard)
    return StatusView(body, shown, verdict)


def _problem(engine: "EngineStatus", now: "Status") -> str | None:
    from backend.domain.shards_away import format_shards

    if now.wrong_redis and engine.engine in ("Redis", "Valkey"):
        return now.wrong_redis.message
    if engine.shards_away:
        return f"no answer from {format_shards(engine.shards_away, engine.shards)}"
    return engine.problem


def _nodes_body(nodes: "RedisNodesStatus") -> Body:
    share = nodes.memory_share
    return {**asdict(nodes), "memory_share": share and round(share, 3)}


def _format_nodes(nodes: "RedisNodesStatus") -> str:
    text = f"{nodes.nodes - nodes.away} of {nodes.nodes} answer"
    if nodes.behind:
        text += f", {counted(nodes.behind, 'replica')} behind"
    if nodes.memory_share is not None:
        text += f", the fullest uses {nodes.memory_share:.0%} of its memory"
    return text


def _format_waiting(count: str, seconds: float | None) -> str:
    from backend.monitoring.summary import format_duration

    return count if not seconds else f"{count}, oldest {format_duration(seconds)}"


def _format_unstored(now: "Status") -> str:
    """The messages and chats that are not stored; entries of the log where they are neither or unknown."""
    found = now.unstored
    if not now.waiting or found is None or not (found.messages or found.chats):
        return (
            _count(now.waiting, "entry of the log", "entries of the log")
            if now.waiting
            else ("unknown" if now.waiting is None else "0")
        )
    kinds = [
        counted(count, noun)
        for count, noun in ((found.messages, "message"), (found.chats, "chat"))
        if count
    ]
    return ("" if found.exact else "about ") + ", ".join(kinds)


def _format_unsynced(now: "Status") -> str:
    if now.dirty_counters == 0 and now.sync_lag_seconds:
        # In a new epoch of Redis the changes before it are not known until all counts are compared.
        from backend.monitoring.summary import format_duration

        return f"unknown, not compared for {format_duration(now.sync_lag_seconds)}"
    return _format_waiting(_count(now.dirty_counters, "", ""), now.sync_lag_seconds)


def _round(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _format_rates(rate: "Rates") -> str:
    each = {"accepted": rate.accepted, "stored": rate.stored, "searchable": rate.searchable}
    return ", ".join(
        f"{'unknown' if value is None else f'{value:,.0f}'} {name}" for name, value in each.items()
    )


def _format_dead_letters(letters: "dict[str, int] | None") -> str:
    if letters is None:
        return "unknown"
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in letters.items() if count)
    return f"{kinds}: see `instachat dead list`" if kinds else "0"


def _format_rewind(last: "Rewind | None") -> str:
    if last is None:
        return "never"
    at = f"{last.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{at}, {counted(last.lost, 'number')} lost: see `instachat doctor`"


def _format_reconciliation(last: "LastReconciliation | None") -> str:
    if last is None:
        return "never"
    at = f"{last.finished_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    summary = f"{at}, {counted(last.findings, 'difference')}"
    return f"{summary}, {last.repaired:,} repaired" if last.repaired else summary


def _count(count: int | None, noun: str, plural: str) -> str:
    """The count with its noun, which may be empty, or `unknown`."""
    return "unknown" if count is None else counted(count, noun, plural).rstrip()
