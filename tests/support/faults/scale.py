"""The long forms of the faults on several machines: real clusters, under load, with five seeds each.

    make scale                              # all, in about half an hour; writes docs/scale.md
    make scale ARGS='--only PostgreSQL'     # the rows that have this in their name; the others stay
    make scale ARGS='-k standby -x'         # arguments of pytest; writes nothing

Prints a table with a row for each fault. Exits with 4 if a promise was not kept, with 1 if tests could not be
run, with 2 if no row has that name, and with 130 after Ctrl-C. A row whose engine this machine lacks says so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from instachat_cli.bench.harness.machine import machine
from tests.support.faults.scale_plugin import ONLY_VARIABLE
from tests.support.faults.scale_table import MARK, Outcome, Run, is_named, markdown, read_runs, rows
from tests.support.pgbouncer import pgbouncer_binary
from tools.markdown_section import read_section, replace_section

SECTION: Final = "faults"
FAILED_EXIT_CODE: Final = 4
RAN: Final = {0, 1, 5}  # exit codes of pytest: all passed, some failed, none was selected
NOTHING_FOUND_EXIT_CODE: Final = 2
INTERRUPTED_EXIT_CODE: Final = 130
PYTEST: Final = f"""
import sys
try:
    import pytest
    sys.exit(pytest.main(sys.argv[1:]))
except KeyboardInterrupt:  # before the first test
    sys.exit({INTERRUPTED_EXIT_CODE})
"""
LONG_FORMS: Final = {
    "INSTACHAT_CLUSTER_SEEDS": "1,2,3,4,5",
    "INSTACHAT_LOSS_SEEDS": "1,2,3,4,5",
    "INSTACHAT_MOVED_CHATS": "22000",
    "INSTACHAT_STANDBY_SECONDS": "60",
    "INSTACHAT_STANDBY_SEEDS": "1,2,3,4,5",
    "INSTACHAT_WRITER_PAUSE": "0",
}
"""What makes the tests long, unless the environment says otherwise; tests/README.md describes each."""

POOLED_ROW: Final = "PgBouncer in transaction mode: processes are killed"
POOLED_TESTS: Final = (
    "tests/integration/ingest/test_ledger.py",
    "tests/integration/ingest/test_dead_letters.py",
    "tests/integration/maintenance/test_cascade_delete.py",
    "tests/integration/maintenance/test_counter_sync.py",
)


def run_marked(only: str, arguments: Sequence[str]) -> list[Run]:
    """Run the tests that have the mark, of rows that have `only` in their name."""
    plugin = ("-p", "tests.support.faults.scale_plugin")
    return _run([*plugin, "-m", MARK, "tests", *arguments], LONG_FORMS | {ONLY_VARIABLE: only})


def run_pooled(only: str, arguments: Sequence[str]) -> list[Run]:
    """Run tests that kill processes once more, with a PgBouncer in front of each PostgreSQL."""
    if not is_named(POOLED_ROW, only):
        return []
    if pgbouncer_binary() is None:
        return [Run(POOLED_ROW, "", Outcome.SKIPPED, reason="PgBouncer is not installed")]
    pooled = {"INSTACHAT_TESTS_PGBOUNCER": "1"}
    return _run(["-m", "faults", *POOLED_TESTS, *arguments], pooled, POOLED_ROW)


def _run(arguments: Sequence[str], environment: dict[str, str], row: str = "") -> list[Run]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        pytest = [sys.executable, "-c", PYTEST, "-q", "-p", "no:randomly", f"--junitxml={report}"]
        with subprocess.Popen(
            [*pytest, *arguments], env=environment | os.environ, stdout=sys.stderr
        ) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.wait()  # it has the signal, too, and stops the engines
                raise
        if code not in RAN:
            raise SystemExit(1)
        return read_runs(report, row)


def main() -> int:
    """Run the faults, print the table, and write it."""
    parser = argparse.ArgumentParser(prog="make scale")
    parser.add_argument("--report", type=Path, help="the page that has the table")
    parser.add_argument("--only", default="", help="run the rows that have this in their name")
    options, arguments = parser.parse_known_args()
    runs = [*run_marked(options.only, arguments), *run_pooled(options.only, arguments)]
    found = rows(runs)
    if options.only and not found:
        sys.stderr.write(f"no row has “{options.only}” in its name\n")
        return NOTHING_FOUND_EXIT_CODE
    source = f"{datetime.now(UTC):%Y-%m-%d}, {machine()['InstaChat']}"
    sys.stdout.write(f"{markdown(found, source)}\n")
    if options.report and not arguments:
        earlier = read_section(options.report, SECTION)
        replace_section(options.report, SECTION, markdown(found, source, earlier))
    return FAILED_EXIT_CODE if any(row.outcome is Outcome.FAILED for row in found) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        sys.exit(INTERRUPTED_EXIT_CODE)
