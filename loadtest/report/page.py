"""A result as a self-contained HTML page: no script, no other file, no other host."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from loadtest.report.flame import ABOUT, flame_figure
from loadtest.report.result import (
    NEUTRAL_COUNTS,
    Audit,
    FaultEffect,
    LoadModel,
    OtherServer,
    Profile,
    Result,
    RouteStatistics,
    Threshold,
)
from loadtest.report.words import (
    after_text,
    carried,
    load_text,
    sentence,
    short_route,
    steadiness,
)

PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
Cell = str | float | None


def page(result: Result, plots: Mapping[str, str]) -> str:
    """The HTML of the page. `plots` maps titles to SVG elements."""
    return PAGE.substitute(
        title=escape(f"{_server(result)} load test: {result.scenario}, {result.profile}"),
        about=escape(
            f"{result.started_at}, {result.model} model, {load_text(result)}, {result.duration_s:g} s,"
            f" {result.window.to_s - result.window.from_s:.0f} s of them measured, seed {result.seed}"
        ),
        sentence=escape(sentence(result)),
        tiles=_tiles(result),
        verdict=_verdict(result),
        routes=_routes([*result.requests, result.total]),
        plots="\n".join(
            f'<figure tabindex="0" aria-label="{escape(title)}">{svg}</figure>'
            for title, svg in plots.items()
        )
        or "<p>Nothing was measured.</p>",
        lags=_table(
            ("until", "p50 ms", "p95 ms", "p99 ms", "max ms", "samples", "never"),
            [
                (until, lag.p50, lag.p95, lag.p99, lag.max, lag.samples, lag.missed)
                for until, lag in result.lag_ms.items()
            ],
        ),
        audit=_audit(result.audit),
        thresholds=_thresholds(result.thresholds),
        steps=_steps(result) + _levels(result) + _faults(result.faults),
        profiles=_flame_graphs(result.profiles),
        other=_other_server(result.other),
        facts=_facts(result),
    )


def _server(result: Result) -> str:
    return result.other.name if result.other else "InstaChat"


def _tiles(result: Result) -> str:
    """The figures that matter most, each with what it is of; a limit that was missed stands out."""
    total, faults = result.total, sum(result.audit.faults.values())
    missed = {threshold.name for threshold in result.thresholds if not threshold.kept}
    limits = {
        threshold.name: _amount(threshold, threshold.limit) for threshold in result.thresholds
    }
    tiles = [
        ("requests answered", f"{total.rate:,.0f}/s", "rate", ""),
        ("p50", _milliseconds(total.p50_ms), "p50", "half are faster"),
        ("p99", _milliseconds(total.p99_ms), "p99", "99 of 100 are faster"),
        ("failed", f"{total.error_share:.2%}", "errors", f"{total.failures:,} of {total.count:,}"),
        (
            *("audit", "no fault" if not faults else f"{faults:,} faults", "audit"),
            f"{result.audit.answered + result.audit.deleted:,} messages",
        ),
    ]
    shown = []
    for title, value, name, note in tiles:
        is_bad = name in missed or (name == "audit" and faults)
        below = f"at most {limits[name]}" if name in limits else note
        shown.append(
            f'<div class="tile{" missed" if is_bad else ""}"><dt>{escape(title)}</dt>'
            f"<dd>{escape(value)}</dd><dd>{escape(below)}</dd></div>"
        )
    return f"<dl>{''.join(shown)}</dl>"


def _milliseconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.1f} ms"


def _verdict(result: Result) -> str:
    paragraphs = [_paragraph("bad", f"Did not pass: {problem}.") for problem in result.problems]
    if result.interrupted:
        paragraphs.append(_paragraph("bad", "Interrupted: the figures cover the time until then."))
    paragraphs = paragraphs or [_paragraph("good", "Passed.")]
    if said := steadiness(result):
        paragraphs.append(_paragraph("soft", f"Steady: {said}."))
    if result.breakpoint and result.breakpoint.level is not None:
        paragraphs.append(_paragraph("good", f"Carried: {carried(result.breakpoint)}."))
    return "\n".join([*paragraphs, *(_paragraph("soft", f"Warning: {w}") for w in result.warnings)])


def _paragraph(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>'


def _routes(rows: Sequence[RouteStatistics]) -> str:
    """The table of routes; if requests failed, with a column of the errors."""
    heads: tuple[str, ...] = (
        "route",
        "rate/s",
        "p50 ms",
        "p90 ms",
        "p95 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "requests",
        "failed",
    )
    cells: list[Sequence[Cell]] = [
        (
            short_route(row.name),
            row.rate,
            row.p50_ms,
            row.p90_ms,
            row.p95_ms,
            row.p99_ms,
            row.p999_ms,
            row.max_ms,
            row.count,
            row.failures,
        )
        for row in rows
    ]
    if any(row.errors for row in rows):
        why = [", ".join(f"{n:,} × {error}" for error, n in row.errors.items()) for row in rows]
        heads = (*heads, "why")
        cells = [(*cell, reason) for cell, reason in zip(cells, why, strict=True)]
    return _table(heads, cells)


def _audit(audit: Audit) -> str:
    rows: list[Sequence[Cell]] = [
        (kind.replace("_", " "), count, "" if kind in NEUTRAL_COUNTS else _mark(not count))
        for kind, count in audit.counts().items()
    ]
    return _table(("audit", "count", "verdict"), rows, raw=2) + "\n".join(
        _paragraph("bad", example) for example in audit.examples
    )


def _faults(faults: Sequence[FaultEffect]) -> str:
    if not faults:
        return ""
    heads = (
        "fault",
        "from s",
        "to s",
        "failed",
        "highest p99 ms",
        "answers as before",
        "storing as before",
        "finding as before",
    )
    rows = [
        (
            fault.fault,
            fault.from_s,
            fault.to_s,
            fault.failures,
            fault.highest_p99_ms,
            after_text(fault.answering_after_s),
            after_text(fault.storing_after_s),
            after_text(fault.finding_after_s),
        )
        for fault in faults
    ]
    return "<h2>Faults</h2>" + _table(heads, rows)


def _thresholds(thresholds: Sequence[Threshold]) -> str:
    if not thresholds:
        return "<p>None was set.</p>"
    return _table(
        ("threshold", "at most", "found", "verdict"),
        [
            (
                threshold.name,
                _amount(threshold, threshold.limit),
                _amount(threshold, threshold.found),
                _mark(threshold.kept, "kept", "missed"),
            )
            for threshold in thresholds
        ],
        raw=3,
    )


def _amount(threshold: Threshold, value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.2%}" if threshold.name == "errors" else f"{value:,.1f} ms"


def _steps(result: Result) -> str:
    if result.breakpoint is None:
        return ""
    rows = [
        (
            *(f"{step.level:,.0f}", step.rate, step.p99_ms, f"{step.error_share:.2%}"),
            _mark(step.held, "held", f"not held: {step.why}"),
        )
        for step in result.breakpoint.steps
    ]
    heads = ("arrivals/s", "answered/s", "p99 ms", "failed", "verdict")
    return f"<h2>Steps</h2>\n{_table(heads, rows, raw=4)}"


def _levels(result: Result) -> str:
    if not result.levels:
        return ""
    unit = "/s" if result.model is LoadModel.OPEN else " users"
    heads = ("level", "from s", "to s", "rate/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "failed")
    rows: list[Sequence[Cell]] = [
        (
            *(f"{held.level:,g}{unit}", held.from_s, held.to_s, row.rate),
            *(row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms, row.failures),
        )
        for held in result.levels
        for row in [held.requests]
    ]
    return f"<h2>Levels</h2>\n{_table(heads, rows)}"


def _flame_graphs(profiles: Sequence[Profile]) -> str:
    """Where the time went: a flame graph of each process."""
    if not profiles:
        return ""
    figures = map(flame_figure, profiles)
    return "\n".join(["<h2>Where the time went</h2>", _paragraph("soft", ABOUT), *figures])


def _other_server(other: OtherServer | None) -> str:
    """What was sent to a server with another API, and what the run had to leave out."""
    if other is None:
        return ""
    rows = list(other.requests.items())
    left_out = "".join(_paragraph("soft", f"Left out: {why}.") for why in other.left_out)
    return f"<h2>{escape(other.name)}'s API</h2>\n{_table(('route here', 'was sent as'), rows)}\n{left_out}"


def _facts(result: Result) -> str:
    cpu, memory = result.cpu, result.memory_mb
    servers = "not visible from here" if cpu.servers is None else f"{cpu.servers:.2f}"
    facts = {
        "scenario": result.scenario,
        "profile": result.profile,
        "seed": str(result.seed),
        "model": f"{result.model}, {load_text(result)}",
        "processes of the generator": str(result.processes),
        "server": "a private installation" if result.private else result.host,
        "processors used": f"generator {cpu.generator:.2f}, servers {servers},"
        f" all of the machine {cpu.machine:.2f} of {cpu.processors}",
        "memory at most": f"generator {memory.generator:,.0f} MB"
        + ("" if memory.servers is None else f", servers {memory.servers:,.0f} MB"),
        "audit took": f"{result.audit.seconds:.1f} s",
    }
    return _table(
        ("fact", "value"), [(name, text) for name, text in (facts | result.facts).items()]
    )


def _mark(good: bool, yes: str = "good", no: str = "fault") -> str:
    return f'<span class="{"good" if good else "bad"}">{escape(yes if good else no)}</span>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, raw: int = -1) -> str:
    """A table whose first column names the rows.

    Numbers are right-aligned; the column `raw` is not escaped.
    """
    rows = list(rows)
    heading = "".join(
        f'<th scope="col"{_class(not isinstance(cell, str))}>{escape(head)}</th>'
        for head, cell in zip(heads, rows[0] if rows else heads, strict=True)
    )
    lines = [
        # A table wider than the screen scrolls; tabindex lets the keyboard scroll it.
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(heads[0])}"><table>',
        f"<thead><tr>{heading}</tr></thead>",
        "<tbody>",
    ]
    for first, *others in rows:
        lines.append(
            f'<tr><th scope="row">{escape(str(first))}</th>'
            + "".join(
                f"<td{_class(not isinstance(cell, str))}>{cell if at == raw else _cell(cell)}</td>"
                for at, cell in enumerate(others, 1)
            )
            + "</tr>"
        )
    return "\n".join([*lines, "</tbody></table></div>"])


def _class(right: bool) -> str:
    return ' class="number"' if right else ""


def _cell(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return escape(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}"
