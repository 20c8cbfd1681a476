"""The forms of a result: text of 80 columns, a self-contained page, plots and tables."""

import csv
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from loadtest.report.chart import chart
from loadtest.report.files import write
from loadtest.report.result import (
    Audit,
    Breakpoint,
    BreakpointStep,
    DeliveryAudit,
    FaultEffect,
    Frame,
    Lags,
    LatencyBucket,
    Level,
    LoadModel,
    Moment,
    OtherServer,
    PageAudit,
    Profile,
    Result,
    RouteStatistics,
    Threshold,
    Trend,
    loads,
)
from loadtest.report.words import summary
from tests.load.conftest import ROOT
from tests.load.test_parts import RESULT, ROW, SPREAD
from tests.support.browser import chromium

pytestmark = pytest.mark.xdist_group("browser")
__all__ = ["chromium"]  # the fixture

HOSTILE = "<img src=x onerror=alert(1)>"
PLOTS = ("errors", "histogram", "latency", "lags", "processors", "rate")


def moment(at: int) -> Moment:
    """One second of a run whose server becomes slower; every seventh second has no sample."""
    wave = 1 + math.sin(at / 5) / 3
    searchable = None if at % 7 == 0 else 90.0 * wave
    return Moment(
        *(float(at), 90.0, 88.0 + wave, at % 2, 3.0 * wave, 9.0 * wave, (20.0 + at) * wave, 90.0),
        *(40.0 * wave, searchable, 0.2, 0.8 * wave, 300.0, 30.0 * wave),
    )


RICH = replace(
    RESULT,
    duration_s=60.0,
    timeline=[moment(at) for at in range(60)],
    requests=[
        replace(ROW, name="GET /applications/{token}/chats/{chat}/messages/{number}"),
        replace(ROW, name=HOSTILE),
    ],
    breakpoint=Breakpoint(
        50.0,
        49.0,
        [
            BreakpointStep(50.0, 49.0, 12.0, 0.0, True),
            BreakpointStep(6250.0, 5000.0, 1234.5, 0.0, False, "answers fall behind, p99, errors"),
        ],
    ),
    facts={"InstaChat": "commit 0123456789ab", "settings": HOSTILE},
    latencies=[
        LatencyBucket(2.0, 2.5, 900),
        LatencyBucket(2.5, 3.0, 90),
        LatencyBucket(10.0, 12.0, 1),
    ],
    levels=[Level(50.0, 2.0, 30.0, ROW), Level(200.0, 30.0, 60.0, replace(ROW, rate=11.5))],
    trends=[
        Trend("p50", None, -0.123),
        Trend("p99", 12.0, 12.345),
        Trend("answer to stored", 3.0, 0.004),
        Trend("memory", 2.0, 0.5),
    ],
    faults=[
        FaultEffect("stop:postgres@1000.25s+10.5s", 20.0, 25.0, 1_234, 12_345.6, 7, 12),
        FaultEffect("kill:worker@40s", 40.0, 40.0, 0, None, None, None),
    ],
)
CLOSED = replace(RICH, model=LoadModel.CLOSED, rate=None, warnings=["something is wrong " * 9])
BAD = replace(
    RICH,
    audit=Audit(
        answered=10,
        lost=3,
        pages=PageAudit(read=1_234_567, not_modified=1_000_000),
        followers=128,
        deliveries=DeliveryAudit(received=1_234_567, missed=4),
        examples=[f"chat 1: message 2 is not there {HOSTILE}"],
    ),
    lag_ms=Lags(SPREAD, SPREAD, replace(SPREAD, p50=7.5, missed=4)),
    thresholds=[Threshold("p99", 50.0, 61.5, False), Threshold("errors", 0.01, 0.0, True)],
    profiles=[
        Profile("worker", 9.0, 100, 90, [Frame(n, f"f{n} {HOSTILE}", 90 - n) for n in range(12)])
    ],
    other=OtherServer(
        "rails", {ROW.name: f"PUT /messages {HOSTILE}"}, ["`search` is missing: why"]
    ),
)


RESULTS = {"rich": RICH, "closed": CLOSED, "bad": BAD}
Reports = Callable[[Result], Path]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """The folder of a result's report, which is written once, because its plots take a second or two."""

    @cache
    def written(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        paths = write(replace(RESULTS[name], histogram_log=("#[first]", "second")), folder)
        assert sorted(paths) == sorted(folder.iterdir())
        return folder

    return lambda result: written(next(name for name, one in RESULTS.items() if one is result))


@pytest.mark.parametrize("result", [RICH, BAD, RESULT, CLOSED])
def test_the_summary_fits_into_80_columns(result: Result) -> None:
    """Each line does, except those that show a text of the server."""
    lines = list(summary(result))
    assert "DELETE …/messages/{number}" in "".join(
        summary(replace(result, requests=[replace(ROW, name=_route("DELETE"))]))
    )
    assert [line for line in lines if len(line) > 80 and HOSTILE not in line] == []
    levels = [line.split() for line in lines if line.startswith(("50 users", "200 users"))]
    assert [words[2] for words in levels] == (["90.0", "11.5"] if result is CLOSED else [])


def test_a_chart_shows_the_course() -> None:
    """Blocks from 0 to the highest value; means if there are too many; gaps for unknown values."""
    assert chart([0, 1, 2, 3, 4, 5, 6, 7], 36) == "▁▂▃▄▅▆▇█"
    assert chart([0, 0, 7, 7], 2) == "▁█"
    assert chart([None, 7, None], 36) == " █ "
    assert chart([0, 0], 36) == "▁▁"
    assert chart([None], 36) == chart([], 36) == ""
    assert len(chart([1.0] * 3_600, 36)) == 36


def test_files_hold_what_the_result_holds(reports: Reports) -> None:
    """A page, a PNG for each plot, tables of the seconds and of the routes, and the result."""
    folder = reports(RICH)
    assert {path.stem for path in folder.glob("*.png")} == set(PLOTS)
    for name in PLOTS:
        head = (folder / f"{name}.png").read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20]) > 1_000  # pixels wide
    assert loads((folder / "result.json").read_text()) == RICH
    series = _rows(folder / "series.csv")
    assert [float(row["at_s"]) for row in series] == list(range(60))
    assert [row["searchable_ms"] == "" for row in series[:8]] == [True, *[False] * 6, True]
    routes = _rows(folder / "routes.csv")
    assert [row["name"] for row in routes] == [row.name for row in (*RICH.requests, RICH.total)]
    assert (routes[0]["p99_ms"], routes[0]["errors"]) == ("3.0", "500: 9")
    assert [row["until"] for row in _rows(folder / "lags.csv")] == ["stored", "searchable"]
    assert (folder / "latencies.hlog").read_text() == "#[first]\nsecond\n"
    delivered = _rows(reports(BAD) / "lags.csv")[-1]
    assert (delivered["until"], delivered["p50_ms"], delivered["missed"]) == (
        *("delivered", "7.5", "4"),
    )
    assert float(_rows(reports(BAD) / "series.csv")[0]["delivered_ms"]) == 30.0


def test_the_page_opens_with_a_sentence_and_tiles(reports: Reports) -> None:
    """A tile whose limit was missed, and the audit's with a fault, stand out."""
    report = reports(BAD) / "report.html"
    text = re.sub(r"<[^>]+>", " ", report.read_text())
    sentence, _, rest = text.partition("The audit compared")
    assert "In 10 s the server had 900 requests" in sentence
    assert "it found 7 faults" in rest
    assert re.findall(r'class="tile( missed)?"', report.read_text()) == [
        *("", "", " missed", "", " missed")
    ]
    for title in ("requests answered", "p50", "p99", "failed", "audit"):
        assert f" {title} " in rest


def test_thresholds_and_percentiles_are_lines(reports: Reports) -> None:
    """In the plots of what they limit; every plot has a title."""
    report = reports(BAD) / "report.html"
    page = report.read_text()
    plots = dict(re.findall(r'<figure tab[^>]*label="([^"]*)">(.*?)</figure>', page, re.DOTALL))
    assert "p99: at most 50" in plots["Latency"]
    assert "errors: at most 1" in plots["Requests that failed"]
    assert "p99: at most 50 ms" in plots["How long all requests took"]
    assert "p99 3.0 ms" in plots["How long all requests took"]
    assert all(f">{title}</text>" in plot for title, plot in plots.items())


def test_users_are_drawn_in_the_closed_model(reports: Reports) -> None:
    """In the open model, the plot of the rate has a line for the planned rate instead."""
    assert {path.stem for path in reports(CLOSED).glob("*.png")} == {*PLOTS, "users"}


def test_a_run_without_a_second_is_reported_too(tmp_path: Path) -> None:
    """A run that ended before anything was measured has a page without plots; it replaces another one."""
    (tmp_path / "report.html").write_text("another report")
    nothing = RouteStatistics("all", 0, 0.0, None, None, None, None, 0)
    write(replace(RESULT, timeline=[], requests=[], total=nothing, interrupted=True), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "another report" not in page
    assert "Nothing was measured." in page
    assert "Interrupted" in page
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("scheme", "result", "verdict"),
    [
        ("light", RICH, "Passed."),
        ("light", CLOSED, "Passed."),
        ("dark", BAD, "Did not pass: 4 deliveries missed."),
    ],
)
def test_the_page_is_whole_by_itself(
    scheme: str, result: Result, verdict: str, chromium: Browser, reports: Reports
) -> None:
    """In Chromium it loads nothing, runs nothing, shows every plot, and is readable light and dark."""
    address = (reports(result) / "report.html").as_uri()
    complaints, asked = [], []
    context = chromium.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": 1000, "height": 800},
    )
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    try:
        assert page.get_by_text(verdict, exact=True).is_visible()
        more = (result is CLOSED) + len(result.profiles)
        assert page.locator("svg").count() == len(PLOTS) + more
        for plot in page.locator("svg").all():
            box = plot.bounding_box()
            assert box
            assert box["width"] > 500
            assert box["height"] > 150
        assert (page.get_by_text("PUT /messages").count() == 1) == (result.other is not None)
        assert page.get_by_text("commit 0123456789ab").is_visible()
        assert page.locator("script, img, link[rel=stylesheet]").count() == 0  # hostile ones, too
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        background, ink, drawn = (
            sum(map(int, re.findall(r"\d+", page.evaluate(script))[:3]))
            for script in (
                "getComputedStyle(document.body).backgroundColor",
                "getComputedStyle(document.body).color",
                "getComputedStyle(document.querySelector('svg text')).fill",
            )
        )
        assert (background < 150) == (scheme == "dark")
        assert abs(background - ink) > 400
        assert drawn == ink  # text in a plot has the colour of the page's text
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    finally:
        context.close()
    assert complaints == []
    assert asked == [address]


def test_nothing_that_draws_is_loaded_before_something_is_drawn() -> None:
    """Importing the commands and the report does not import Matplotlib or NumPy."""
    code = (
        "import sys, instachat_cli.commands.bench.group, loadtest.report.files\n"
        "sys.exit('matplotlib' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def _route(method: str) -> str:
    return f"{method} /applications/{{token}}/chats/{{chat}}/messages/{{number}}"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
