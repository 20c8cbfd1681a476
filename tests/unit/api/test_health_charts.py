"""The charts of the status page: a line through what is known of the last minute."""

import re
from dataclasses import replace
from datetime import UTC, datetime

from backend.api.health.charts import HEIGHT, WIDTH, chart_html
from backend.api.health.history import HISTORY_SECONDS, History, Series
from backend.monitoring.health import EngineHealth, HealthSnapshot
from backend.monitoring.status import Rates

SNAPSHOT = HealthSnapshot(datetime.now(UTC), [], None, Rates(10.0, 5.0, 2.0))
UNKNOWN = replace(SNAPSHOT, rates=Rates(None, None, None))


def test_a_minute_is_kept() -> None:
    """What is older is dropped; figures that were never known are not charted."""
    now = 0.0
    history = History(lambda: now)
    assert history.series() == []
    for second in range(100):
        now = float(second)
        history.add(SNAPSHOT)
    accepted, stored = history.series()
    assert (accepted.name, stored.name) == ("Accepted", "Stored")
    assert len(accepted.points) == HISTORY_SECONDS + 1
    assert accepted.points[-1] == (0.0, 10.0)
    history.add(replace(SNAPSHOT, engines=[EngineHealth("Elasticsearch", "Elasticsearch", 0.1)]))
    assert [series.name for series in history.series()] == ["Accepted", "Stored", "Searchable"]


def test_the_line_ends_at_now_and_breaks_where_nothing_is_known() -> None:
    """Its highest value is at the top; 0 is at the bottom."""
    points = [
        (60.0, 0.0),
        (59.0, 4.0),
        (58.0, None),
        (57.0, 2.0),
        (30.0, 4.0),
        (0.0, 1.0),
        (0.0, 2.0),
    ]
    html = chart_html(Series("Stored", True, points))
    (line,) = re.findall(r' d="([^"]*)"', html)
    assert re.findall("[ML]", line) == list("MLMMML")
    assert line.startswith(f"M0.0 {HEIGHT - 1}")
    assert line.endswith(f"L{WIDTH:.1f} {HEIGHT / 2:.1f}")
    assert 'aria-label="Stored: 2/s; at most 4/s in the last minute"' in html


def test_a_lag_has_the_unit_that_is_read_best() -> None:
    html = chart_html(Series("Oldest not stored", False, [(1.0, 90.0), (0.0, 0.0)]))
    assert ">0 s<" in html
    assert "at most 90 s" in html
    assert "unknown" in chart_html(Series("Stored", True, [(1.0, 3.0), (0.0, None)]))
