"""The table of `make scale`, from a report of pytest, and its exit code."""

import sys
from pathlib import Path

import pytest

from tests.support.faults import scale
from tests.support.faults.scale_table import Outcome, Run, markdown, read_runs, rows

REPORT = """<testsuites><testsuite>
<testcase name="test_hangs[1]"><properties><property name="row" value="Redis: hangs"/>
<property name="answered" value="1200"/><property name="differences" value="0"/>
<property name="refused" value="7"/><property name="longest outage" value="4.21"/></properties></testcase>
<testcase name="test_hangs[2]"><properties><property name="row" value="Redis: hangs"/>
<property name="answered" value="800"/><property name="differences" value="0"/>
<property name="refused" value="1"/><property name="longest outage" value="3.5"/></properties></testcase>
<testcase name="test_lag"><properties><property name="row" value="PostgreSQL: lags"/></properties>
<failure message="3 lost"/></testcase>
<testcase name="test_old"><properties><property name="row" value="PostgreSQL: lags"/></properties></testcase>
<testcase name="test_node"><properties><property name="row" value="Elasticsearch: lost"/></properties>
<skipped message="Elasticsearch is not installed"/></testcase>
<testcase name="test_ledger"/>
</testsuite></testsuites>"""


def test_a_row_has_all_runs_of_its_fault(tmp_path: Path) -> None:
    """Figures are added, but the longest outage is the longest one. A failure decides the verdict."""
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    found = rows(read_runs(report, "PgBouncer"))
    assert [row.outcome for row in found] == [
        Outcome.SKIPPED,
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.PASSED,
    ]
    table = markdown(found, "now")
    lines = [
        "| Elasticsearch: lost | 0 |  |  |  |  | not run; Elasticsearch is not installed | now |",
        "| PgBouncer | 1 |  |  |  |  | kept | now |",
        "| PostgreSQL: lags | 2 |  |  |  |  | **failed**: test_lag | now |",
        "| Redis: hangs | 2 | 2,000 | 0 | 8 | 4.2 s | kept | now |",
    ]
    assert table.splitlines()[2:] == lines

    # What was not run again stays, also if it could not be run here.
    lines[2] = lines[2].replace("now", "later")
    assert markdown([found[0], found[2]], "later", table).splitlines()[2:] == lines


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.PASSED, 0), (Outcome.SKIPPED, 0), (Outcome.FAILED, 4)]
)
def test_a_promise_that_is_not_kept_decides_the_exit_code(
    outcome: Outcome, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The page gets its table only if no arguments of pytest leave out tests of a row."""
    page = tmp_path / "page.md"
    page.write_text("<!-- faults: begin -->\n<!-- faults: end -->\n")
    monkeypatch.setattr(scale, "run_marked", lambda *_: [Run("Redis: hangs", "test", outcome)])
    monkeypatch.setattr(scale, "run_pooled", lambda *_: [])
    for arguments, written in ((["-k", "hangs"], False), ([], True)):
        monkeypatch.setattr(sys, "argv", ["scale", "--report", str(page), *arguments])
        assert scale.main() == code
        assert ("Redis: hangs" in page.read_text()) is written
