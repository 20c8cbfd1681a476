"""A result as plain text in 80 columns, with small charts."""

import textwrap
from collections.abc import Callable, Iterator, Sequence

from loadtest.report.chart import chart
from loadtest.report.result import (
    Breakpoint,
    FaultEffect,
    LoadModel,
    Moment,
    Result,
    RouteStatistics,
    Spread,
)

CHARTS: tuple[tuple[str, Callable[[Moment], float | None]], ...] = (
    ("requests/s", lambda moment: moment.rate),
    ("failed/s", lambda moment: moment.failures or None),
    ("p50 ms", lambda moment: moment.p50_ms),
    ("p99 ms", lambda moment: moment.p99_ms),
    ("answer to stored ms", lambda moment: moment.stored_ms),
    ("… to searchable ms", lambda moment: moment.searchable_ms),
    ("… to delivered ms", lambda moment: moment.delivered_ms),
)
MEMORY = (
    "memory"  # a trend that does not make a run unsteady, because more data may take more memory
)
CHART_WIDTH = 36
COLUMNS = 80


def arrivals_text(spacing: str | None) -> str:
    """Arrivals, with their spacing unless they are even."""
    return "arrivals" if spacing in (None, "uniform") else f"{spacing} arrivals"


def load_text(result: Result) -> str:
    """The level of the load, in words."""
    arrivals = arrivals_text(result.arrivals)
    if result.breakpoint:
        tried = [step.level for step in result.breakpoint.steps]
        return f"{tried[0]:,.0f} to {tried[-1]:,.0f} {arrivals}/s" if tried else "no step ended"
    if result.model is LoadModel.OPEN:
        return f"{result.rate:g} {arrivals}/s at the highest"
    return f"{result.users:,} user{'' if result.users == 1 else 's'} at the highest"


def sentence(result: Result) -> str:
    """What the run did and what came of it."""
    total, audit = result.total, result.audit
    measured = result.window.to_s - result.window.from_s
    failed = f"{total.error_share:.2%} failed" if total.failures else "none failed"
    faults = sum(audit.faults.values())
    wrong = "it found 1 fault" if faults == 1 else f"it found {faults:,} faults"
    kept = wrong if faults else "every one is there as it was answered"
    return (
        f"In {measured:.0f} s the server had {total.count:,} requests ({load_text(result)}); {failed}."
        f" The audit compared {audit.answered + audit.deleted:,} answered messages with what is stored:"
        f" {kept}."
    )


def carried(found: Breakpoint) -> str:
    """The highest level that a `breakpoint` run carried, and the limits of a step, in words."""
    level = "no level" if found.level is None else f"{found.level:,.0f} arrivals a second"
    return f"{level}; {found.limits}"


def steadiness(result: Result) -> str:
    """Whether the run was steady and from when, and how each value has changed; '' if that is not known."""
    if not result.trends:
        return ""
    judged = [trend for trend in result.trends if trend.name != MEMORY]
    unsteady = [trend.name for trend in judged if trend.from_s is None]
    begins = [trend.from_s for trend in judged if trend.from_s is not None]
    verdict = f"never: {', '.join(unsteady)}" if unsteady else f"from {max(begins):.0f} s on"
    changed = ", ".join(f"{trend.name} {trend.change:+.0%}" for trend in result.trends)
    return f"{verdict} (change until the end: {changed})"


def summary(result: Result) -> Iterator[str]:
    """The lines of the text, without line ends."""
    r = result
    yield f"{r.scenario}, {r.profile}: {r.model} model, {load_text(r)}, seed {r.seed};"
    together = ", all levels together" if r.levels or r.breakpoint else ""
    measured = f"{r.window.to_s - r.window.from_s:.0f} s of them measured"
    full = f", {r.preload:,} messages before it" if r.preload else ""
    yield f"{r.duration_s:g} s, {measured}{together}{full}"
    if r.other:
        yield f"server: {r.other.name}, at {r.host}"
    yield ""
    width = max(len(short_route(row.name)) for row in [*r.requests, r.total])
    heads = " ".join(f"{head:>7}" for head in ("p50 ms", "p95 ms", "p99 ms", "max ms"))
    yield f"{'route':<{width}} {'rate/s':>8} {heads} {'failed':>7}"
    yield from (_row(short_route(row.name), row, width) for row in [*r.requests, r.total])
    yield ""
    if r.levels:
        yield f"{'level':<{width}} {'rate/s':>8} {heads} {'failed':>7}"
        unit = "/s" if r.model is LoadModel.OPEN else " users"
        yield from (_row(f"{at.level:,g}{unit}", at.requests, width) for at in r.levels)
        yield ""
    if r.faults:
        yield from _faults(r.faults)
        yield ""
    yield from _charts(result)
    for until, spread in r.lag_ms.items():
        if r.other and not spread.samples:
            continue
        yield f"answer to {until:<11} {_spread(spread)}"
    if said := steadiness(r):
        yield from textwrap.wrap(f"{'steady':<21} {said}", COLUMNS, subsequent_indent=" " * 22)
    servers = "" if r.cpu.servers is None else f", servers {r.cpu.servers:.2f}"
    yield f"processors used       generator {r.cpu.generator:.2f}{servers}, of {r.cpu.processors}"
    servers = "" if r.memory_mb.servers is None else f", servers {r.memory_mb.servers:,.0f} MB"
    yield f"memory at most        generator {r.memory_mb.generator:,.0f} MB{servers}"
    if r.breakpoint:
        yield from _breakpoint(result)
    a = r.audit
    found = "not searched" if a.searchable is None else f"{a.searchable:,} found"
    yield f"audit                 {a.answered:,} answered, {a.stored:,} stored, {found}"
    yield f"                      {a.deleted:,} deleted, {a.unknown:,} unknown"
    if p := a.pages:
        yield f"                      {p.read:,} newest pages, {p.not_modified:,} of them not modified"
    if d := a.deliveries:
        yield f"                      {d.received:,} events received by {a.followers:,} followers"
    faults = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in a.faults.items())
    yield f"                      {faults or 'nothing lost, doubled, missing or changed'}"
    yield from (f"                      {example}" for example in a.examples)
    for missing in r.other.left_out if r.other else ():
        yield from textwrap.wrap(f"left out: {missing}", COLUMNS, subsequent_indent="  ")
    for warning in r.warnings:
        yield from textwrap.wrap(f"warning: {warning}", COLUMNS, subsequent_indent="  ")


def _charts(result: Result) -> Iterator[str]:
    """Charts of the whole run: a block is a second, or several seconds of a long run."""
    found = False
    for name, of in CHARTS:
        values = [of(moment) for moment in result.timeline]
        if blocks := chart(values, CHART_WIDTH):
            found = True
            known = [value for value in values if value is not None]
            low, high = f"{min(known):,.1f}", f"{max(known):,.1f}"
            yield f"{name:<21} {blocks:<{CHART_WIDTH}} {low} – {high}"
    if found:
        yield ""


def _breakpoint(result: Result) -> Iterator[str]:
    assert result.breakpoint
    yield f"{'planned':>9} {'answered':>9} {'p99':>10}"
    for step in result.breakpoint.steps:
        p99 = "-" if step.p99_ms is None else f"{step.p99_ms:.1f} ms"
        verdict = "held" if step.held else f"not held: {step.why}"
        yield f"{step.level:>7,.0f}/s {step.rate:>7,.0f}/s {p99:>10}  {verdict}"
    yield f"carried               {carried(result.breakpoint)}"


def _faults(faults: Sequence[FaultEffect]) -> Iterator[str]:
    """What each fault has cost; the last columns say when answers, storing and finding were as before."""
    width = max(len(fault.fault) for fault in faults)
    ends = " ".join(f"{head:<11}" for head in ("answers", "storing", "finding")).rstrip()
    yield f"{'fault':<{width}} {'failed':>7} {'p99 ms':>8}  {ends}"
    for fault in faults:
        p99 = "-" if fault.highest_p99_ms is None else f"{fault.highest_p99_ms:,.1f}"
        after = (fault.answering_after_s, fault.storing_after_s, fault.finding_after_s)
        ends = " ".join(f"{after_text(seconds):<11}" for seconds in after).rstrip()
        yield f"{fault.fault:<{width}} {fault.failures:>7,} {p99:>8}  {ends}"


def after_text(seconds: int | None) -> str:
    """How long after a fault something was as before."""
    return "not seen" if seconds is None else f"after {seconds} s"


def _row(name: str, row: RouteStatistics, width: int) -> str:
    times = " ".join(_ms(ms) for ms in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
    return f"{name:<{width}} {row.rate:>8,.1f} {times} {row.failures:>7,}"


def short_route(route: str) -> str:
    """A route without the part that all routes share, so that a table has room for it."""
    return route.replace("/applications/{token}", "…").replace("…/chats/{chat}", "…")


def _spread(spread: Spread) -> str:
    missed = f", {spread.missed} never" if spread.missed else ""
    p50, p95, p99 = (_ms(ms).strip() for ms in (spread.p50, spread.p95, spread.p99))
    return f"p50 {p50}, p95 {p95}, p99 {p99} ms ({spread.samples} samples{missed})"


def _ms(ms: float | None) -> str:
    return f"{'-' if ms is None else f'{ms:.1f}':>7}"
