"""A result as plain text in 80 columns, with small charts."""

import textwrap
from collections.abc import Callable, Iterator

from loadtest.report.chart import chart
from loadtest.report.result import Breakpoint, LoadModel, Moment, Result, RouteStatistics, Spread

CHARTS: tuple[tuple[str, Callable[[Moment], float | None]], ...] = (
    ("requests/s", lambda moment: moment.rate),
    ("failed/s", lambda moment: moment.failures or None),
    ("p50 ms", lambda moment: moment.p50_ms),
    ("p99 ms", lambda moment: moment.p99_ms),
    ("answer to stored ms", lambda moment: moment.stored_ms),
    ("… to searchable ms", lambda moment: moment.searchable_ms),
    ("… to delivered ms", lambda moment: moment.delivered_ms),
)
CHART_WIDTH = 36
COLUMNS = 80


def load_text(result: Result) -> str:
    """The level of the load, in words."""
    if result.breakpoint:
        tried = [step.level for step in result.breakpoint.steps]
        return f"{tried[0]:,.0f} to {tried[-1]:,.0f} arrivals/s" if tried else "no step ended"
    if result.model is LoadModel.OPEN:
        return f"{result.rate:g} arrivals/s at the highest"
    return f"{result.users:,} users at the highest"


def carried(found: Breakpoint) -> str:
    """The highest level that a `breakpoint` run carried, and the limits of a step, in words."""
    level = "no level" if found.level is None else f"{found.level:,.0f} arrivals a second"
    return f"{level}; {found.limits}"


def summary(result: Result) -> Iterator[str]:
    """The lines of the text, without line ends."""
    r = result
    yield f"{r.scenario}, {r.profile}: {r.model} model, {load_text(r)}, seed {r.seed};"
    together = ", all levels together" if r.levels or r.breakpoint else ""
    measured = f"{r.window.to_s - r.window.from_s:.0f} s of them measured"
    yield f"{r.duration_s:g} s, {measured}{together}"
    yield ""
    width = max(len(_short(row.name)) for row in [*r.requests, r.total])
    heads = " ".join(f"{head:>7}" for head in ("p50 ms", "p95 ms", "p99 ms", "max ms"))
    yield f"{'route':<{width}} {'rate/s':>8} {heads} {'failed':>7}"
    yield from (_row(_short(row.name), row, width) for row in [*r.requests, r.total])
    yield ""
    if r.levels:
        yield f"{'level':<{width}} {'rate/s':>8} {heads} {'failed':>7}"
        unit = "/s" if r.model is LoadModel.OPEN else " users"
        yield from (_row(f"{at.level:,g}{unit}", at.requests, width) for at in r.levels)
        yield ""
    yield from _charts(result)
    for until, spread in r.lag_ms.items():
        yield f"answer to {until:<11} {_spread(spread)}"
    servers = "" if r.cpu.servers is None else f", servers {r.cpu.servers:.2f}"
    yield f"processors used       generator {r.cpu.generator:.2f}{servers}, of {r.cpu.processors}"
    servers = "" if r.memory_mb.servers is None else f", servers {r.memory_mb.servers:,.0f} MB"
    yield f"memory at most        generator {r.memory_mb.generator:,.0f} MB{servers}"
    if r.breakpoint:
        yield from _breakpoint(result)
    a = r.audit
    yield (
        f"audit                 {a.answered:,} answered, {a.stored:,} stored, {a.searchable:,} found"
    )
    yield f"                      {a.deleted:,} deleted, {a.unknown:,} unknown"
    if p := a.pages:
        yield f"                      {p.read:,} newest pages, {p.not_modified:,} of them not modified"
    if d := a.deliveries:
        yield f"                      {d.received:,} events received by {a.followers:,} followers"
    faults = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in a.faults.items())
    yield f"                      {faults or 'nothing lost, doubled, missing or changed'}"
    yield from (f"                      {example}" for example in a.examples)
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


def _row(name: str, row: RouteStatistics, width: int) -> str:
    times = " ".join(_ms(ms) for ms in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
    return f"{name:<{width}} {row.rate:>8,.1f} {times} {row.failures:>7,}"


def _short(route: str) -> str:
    """A route without the part that all routes share, to fit into 80 columns."""
    return route.replace("/applications/{token}", "…").replace("…/chats/{chat}", "…")


def _spread(spread: Spread) -> str:
    missed = f", {spread.missed} never" if spread.missed else ""
    p50, p95, p99 = (_ms(ms).strip() for ms in (spread.p50, spread.p95, spread.p99))
    return f"p50 {p50}, p95 {p95}, p99 {p99} ms ({spread.samples} samples{missed})"


def _ms(ms: float | None) -> str:
    return f"{'-' if ms is None else f'{ms:.1f}':>7}"
