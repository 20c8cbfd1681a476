"""Small charts of the status page, as SVG without scripts, styles or ids."""

from collections.abc import Iterator, Sequence
from html import escape

from backend.api.health.history import HISTORY_SECONDS, Series
from backend.monitoring.summary import format_duration

WIDTH, HEIGHT = 120.0, 32.0  # of the drawing; the page stretches it
MAX_GAP_SECONDS = 10.0  # between two moments that are joined


def chart_html(series: Series) -> str:
    """A figure with the chart, its value now, and the highest one."""
    known = [value for _, value in series.points if value is not None]
    highest = max(known)
    newest = series.points[-1][1]
    now = "unknown" if newest is None else _amount(series, newest)
    name = escape(series.name)
    words = f"{name}: {now}; at most {_amount(series, highest)} in the last minute"
    return (
        f'<figure><figcaption>{name}<span class="now">{now}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img"'
        f' aria-label="{words}"><path d="{" ".join(_path(series.points, highest))}"/></svg>'
        f"<p>at most {_amount(series, highest)}</p></figure>"
    )


def _amount(series: Series, value: float) -> str:
    if not series.is_rate:
        return format_duration(value) if value else "0 s"
    return f"{value:,.0f}/s" if value >= 10 or not value else f"{value:.2g}/s"


def _path(points: Sequence[tuple[float, float | None]], highest: float) -> Iterator[str]:
    """The commands of the line: it breaks where a value is unknown or nobody looked."""
    before: float | None = None
    for ago, value in points:
        if value is None:
            before = None
            continue
        x = WIDTH * (1 - ago / HISTORY_SECONDS)
        y = HEIGHT - 1 - (HEIGHT - 2) * (value / highest if highest else 0)
        joined = before is not None and before - ago <= MAX_GAP_SECONDS
        yield f"{'L' if joined else 'M'}{max(x, 0):.1f} {y:.1f}" + ("" if joined else "h0.5")
        before = ago
