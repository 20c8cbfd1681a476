"""A result in a few lines of plain text."""

from collections.abc import Iterator

from loadtest.result import Model, Requests, Result, Spread


def summary(result: Result) -> Iterator[str]:
    """The lines, without line ends."""
    r = result
    level = f"{r.rate:g} arrivals/s" if r.model is Model.OPEN else f"{r.users:,} users"
    yield (
        f"{r.scenario}, {r.profile}: {r.model} model, {level} at the highest, {r.duration_s:g} s"
        f" ({r.window.to_s - r.window.from_s:.0f} s measured), seed {r.seed}"
    )
    yield ""
    width = max(len(row.name) for row in [*r.requests, r.total])
    heads = " ".join(f"{head:>8}" for head in ("p50 ms", "p95 ms", "p99 ms", "max ms"))
    yield f"{'route':<{width}} {'rate/s':>9} {heads} {'failed':>7}"
    yield from (_row(row, width) for row in [*r.requests, r.total])
    yield ""
    yield f"answer to stored      {_spread(r.lag_ms.stored)}"
    yield f"answer to searchable  {_spread(r.lag_ms.searchable)}"
    servers = "" if r.cpu.servers is None else f", servers {r.cpu.servers:.2f}"
    yield f"processors used       generator {r.cpu.generator:.2f}{servers}, of {r.cpu.processors}"
    if r.memory_mb.servers is not None:
        yield f"memory at most        servers {r.memory_mb.servers:,.0f} MB"
    if r.breakpoint:
        yield from _breakpoint(result)
    a = r.audit
    yield (
        f"audit                 {a.answered:,} answered, {a.stored:,} stored, {a.searchable:,} found;"
        f" {a.deleted:,} deleted, {a.unknown:,} unknown"
    )
    faults = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in a.faults.items())
    yield f"                      {faults or 'nothing lost, doubled, missing or changed'}"
    yield from (f"                      {example}" for example in a.examples)
    for warning in r.warnings:
        yield f"warning: {warning}"


def _breakpoint(result: Result) -> Iterator[str]:
    assert result.breakpoint
    for step in result.breakpoint.steps:
        p99 = "-" if step.p99_ms is None else f"{step.p99_ms:.1f} ms"
        verdict = "held" if step.held else f"not held: {step.why}"
        yield f"  {step.level:>9,.0f}/s  {step.rate:>9,.0f}/s answered  p99 {p99:>10}  {verdict}"
    level = result.breakpoint.level
    found = "nothing held" if level is None else f"{level:,.0f} arrivals a second"
    yield f"carried               {found}"


def _row(row: Requests, width: int) -> str:
    times = " ".join(_ms(ms) for ms in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))
    return f"{row.name:<{width}} {row.rate:>9,.1f} {times} {row.failures:>7,}"


def _spread(spread: Spread) -> str:
    missed = f", {spread.missed} never" if spread.missed else ""
    p50, p95, p99 = (_ms(ms).strip() for ms in (spread.p50, spread.p95, spread.p99))
    return f"p50 {p50}, p95 {p95}, p99 {p99} ms ({spread.samples} samples{missed})"


def _ms(ms: float | None) -> str:
    return f"{'-' if ms is None else f'{ms:.1f}':>8}"
