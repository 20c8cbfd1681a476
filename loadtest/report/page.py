"""A result as a self-contained HTML page: no script, no other file, no other host."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from loadtest.report.result import (
    NEUTRAL_COUNTS,
    Audit,
    LoadModel,
    Result,
    RouteStatistics,
    Threshold,
)
from loadtest.report.words import carried, load_text

PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
Cell = str | float | None


def page(result: Result, plots: Mapping[str, str]) -> str:
    """The HTML of the page. `plots` maps titles to SVG elements."""
    return PAGE.substitute(
        title=escape(f"InstaChat load test: {result.scenario}, {result.profile}"),
        about=escape(
            f"{result.started_at}, {result.model} model, {load_text(result)}, {result.duration_s:g} s,"
            f" {result.window.to_s - result.window.from_s:.0f} s of them measured, seed {result.seed}"
        ),
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
        steps=_steps(result) + _levels(result),
        facts=_facts(result),
    )


def _verdict(result: Result) -> str:
    paragraphs = [_paragraph("bad", f"Did not pass: {problem}.") for problem in result.problems]
    if result.interrupted:
        paragraphs.append(_paragraph("bad", "Interrupted: the figures cover the time until then."))
    paragraphs = paragraphs or [_paragraph("good", "Passed.")]
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
        "p95 ms",
        "p99 ms",
        "max ms",
        "requests",
        "failed",
    )
    cells: list[Sequence[Cell]] = [
        (
            row.name,
            row.rate,
            row.p50_ms,
            row.p95_ms,
            row.p99_ms,
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
