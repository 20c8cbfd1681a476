"""The section of docs/performance.md about full installations."""

from dataclasses import replace
from pathlib import Path

from instachat_cli.bench.reports.performance import markdown
from loadtest.report.result import Result
from loadtest.run.choices import Scenario
from tests.load.test_parts import RESULT, ROW
from tools.markdown_section import read_section, replace_section
from tools.measure_preloads import MESSAGES, SCENARIOS, SECTION, Measured, section


def results(p50: float) -> list[Result]:
    """Three rounds of each scenario, of which one is an outlier."""
    made = []
    for factor in (1, 100, 1):
        for scenario in SCENARIOS:
            route = "?order=desc" if scenario == Scenario.READ_HEAVY else ""
            row = replace(ROW, name=f"GET {MESSAGES}{route}", p50_ms=factor * p50, p95_ms=2 * p50)
            made.append(replace(RESULT, scenario=scenario, requests=[row]))
    return made


def test_each_size_has_a_column_of_medians() -> None:
    """What a scenario does not send is not in the other's figures; what is unknown is a dash."""
    text = section([Measured(0, 0.0, results(2)), Measured(1_000_000, 27.6, results(3))])
    assert "Medians of 3 runs" in text
    assert "| | 0 messages | 1,000,000 messages |" in text
    assert "| a page of a chat, ms | 2 / 4 | 3 / 6 |" in text
    assert "| the newest page, ms | 2 / 4 | 3 / 6 |" in text
    assert "| edit a message, ms | - / - | - / - |" in text
    assert "| import, s |  | 28 |" in text


def test_the_benchmarks_keep_the_section(tmp_path: Path) -> None:
    """A new report of `bench ceilings` keeps the previous one's sections of other programs, nothing else."""
    page = tmp_path / "performance.md"
    page.write_text(
        f"old\n<!-- {SECTION}: begin -->\n<!-- {SECTION}: end -->\nold\n", encoding="utf-8"
    )
    replace_section(page, SECTION, "measured")
    page.write_text(markdown([], {"machine": "fast"}, page.read_text()), encoding="utf-8")
    assert read_section(page, SECTION) == "measured"
    assert "old" not in page.read_text().splitlines()
    assert SECTION not in markdown([], {}).replace("make preload", "")
