"""The table of `make scale`, from a report of pytest."""

from pathlib import Path

from tests.support.faults.scale_table import Outcome, markdown, read_runs, rows

REPORT = """<testsuites><testsuite>
<testcase name="test_hangs[1]"><properties><property name="row" value="Redis: hangs"/>
<property name="answered" value="1200"/><property name="differences" value="0"/>
<property name="refused" value="7"/><property name="longest wait" value="4.21"/></properties></testcase>
<testcase name="test_hangs[2]"><properties><property name="row" value="Redis: hangs"/>
<property name="answered" value="800"/><property name="differences" value="0"/>
<property name="refused" value="1"/><property name="longest wait" value="3.5"/></properties></testcase>
<testcase name="test_lag"><properties><property name="row" value="PostgreSQL: lags"/></properties>
<failure message="3 lost"/></testcase>
<testcase name="test_old"><properties><property name="row" value="PostgreSQL: lags"/></properties></testcase>
<testcase name="test_node"><properties><property name="row" value="Elasticsearch: lost"/></properties>
<skipped message="Elasticsearch is not installed"/></testcase>
<testcase name="test_ledger"/>
</testsuite></testsuites>"""


def test_a_row_has_all_runs_of_its_fault(tmp_path: Path) -> None:
    """Figures are added, but the longest wait is the longest one. A failure decides the verdict."""
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    found = rows(read_runs(report, "PgBouncer"))
    assert [row.outcome for row in found] == [
        Outcome.SKIPPED,
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.PASSED,
    ]
    assert markdown(found).splitlines()[2:] == [
        "| Elasticsearch: lost | 0 |  |  |  |  | not run; Elasticsearch is not installed |",
        "| PgBouncer | 1 |  |  |  |  | kept |",
        "| PostgreSQL: lags | 2 |  |  |  |  | **failed**: test_lag |",
        "| Redis: hangs | 2 | 2,000 | 0 | 8 | 4.2 s | kept |",
    ]
