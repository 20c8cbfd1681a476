"""The HTML of the status page: whether the installation is healthy, and what to do if it is not.

The page loads this server's own script and style only, contacts no other host, and stores nothing in the
browser.
"""

from html import escape
from importlib import metadata
from typing import Final

from backend.api.assets import asset_url
from backend.api.health.charts import chart_html
from backend.api.health.history import History
from backend.monitoring.health import HealthSnapshot
from backend.monitoring.summary import (
    Figure,
    FigureGroup,
    HealthState,
    Summary,
    group_figures,
    summarize,
)

_CSS_CLASSES: Final = {
    HealthState.OK: "ok",
    HealthState.UNKNOWN: "unknown",
    HealthState.WARNING: "warning",
    HealthState.CRITICAL: "critical",
}
_SIGNS: Final = {
    HealthState.OK: "✓",
    HealthState.UNKNOWN: "?",
    HealthState.WARNING: "!",
    HealthState.CRITICAL: "✗",
}
_REFRESH_SECONDS: Final = 5  # in a browser without scripts
_VERSION: Final = metadata.version("instachat")


def status_page_html(snapshot: HealthSnapshot, history: History) -> str:
    """The page for one snapshot, with charts of the minute before it."""
    figure_groups = group_figures(snapshot)
    summary = summarize(figure_groups)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>InstaChat: {summary.sentence.lower()}</title>
<link rel="icon" href="{asset_url("icon.svg")}">
<link rel="stylesheet" href="{asset_url("page.css")}">
<script src="{asset_url("page.js")}" defer></script>
<noscript><meta http-equiv="refresh" content="{_REFRESH_SECONDS}"></noscript>
</head>
<body>
<header>
<h1>InstaChat</h1>
<nav aria-label="More"><a href="/docs">API documentation</a><a href="/metrics">Metrics</a></nav>
</header>
<main>
{_summary_html(summary)}
<section class="history" id="history" data-live aria-label="The last minute">
<h2>The last minute</h2>
{_history_html(history)}</section>
<div class="groups" id="groups" data-live>
{"".join(map(_group_html, figure_groups))}</div>
</main>
<footer>
<span id="snapshot" data-live>Updated at
<time datetime="{snapshot.at:%Y-%m-%dT%H:%M:%SZ}">{snapshot.at:%H:%M:%S} UTC</time></span>
<span>Version {_VERSION}</span>
<button type="button" id="pause" hidden>Pause</button>
</footer>
</body>
</html>
"""


def _summary_html(summary: Summary) -> str:
    advice = "".join(f"<li>{_advice_html(line)}.</li>" for line in summary.advice)
    return (
        f'<div id="summary" data-live role="status" class="summary {_CSS_CLASSES[summary.state]}">'
        f'<strong><span aria-hidden="true">{_SIGNS[summary.state]}</span> {summary.sentence}</strong>'
        f"{f'<ul>{advice}</ul>' if advice else ''}</div>"
    )


def _history_html(history: History) -> str:
    charts = "".join(map(chart_html, history.series()))
    return f'<div class="charts">{charts}</div>' if charts else "<p>Nothing is known yet.</p>"


def _group_html(group: FigureGroup) -> str:
    name = escape(group.name)
    lines = "".join(map(_figure_html, group.figures))
    return f'<section aria-label="{name}"><h2>{name}</h2><dl>{lines}</dl></section>\n'


def _figure_html(figure: Figure) -> str:
    return (
        f"<div><dt>{escape(figure.name)}</dt>"
        f'<dd class="state {_CSS_CLASSES[figure.state]}">'
        f'<span aria-hidden="true">{_SIGNS[figure.state]}</span> {figure.state}</dd>'
        f'<dd class="value">{escape(figure.value)}</dd></div>'
    )


def _advice_html(advice: str) -> str:
    """Text between backquotes is a command."""
    parts = escape(advice).split("`")
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))
