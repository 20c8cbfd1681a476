"""The table of `make scale`: a row for each fault, from the results of the tests that have the mark `scale`.

A test with `@pytest.mark.scale("ENGINE: FAULT")` belongs to the row of that name. It may record figures by
`record_load` or `record_audit`. `read_runs` reads all of them from pytest's report, a file of JUnit's XML.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.support.faults.load import Load
from tests.support.ledger import Audit

MARK: Final = "scale"
ROW: Final = "row"  # the property that has a row's name
ANSWERED: Final = "answered"
DIFFERENCES: Final = "differences"
REFUSED: Final = "refused"
LONGEST_OUTAGE: Final = "longest outage"

_HEAD: Final = (
    (
        "| fault | runs | messages answered | of these lost, repeated or changed | requests refused"
        " | longest outage | verdict | run |"
    ),
    "| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
)

Record = Callable[[str, object], None]
"""pytest's fixture `record_property`."""


def record_audit(record: Record, result: Audit) -> None:
    """Record what an audit has found, for the figures of the row."""
    record(ANSWERED, result.answered)
    record(DIFFERENCES, sum(map(len, result.faults.values())))


def record_load(
    record: Record, load: Load, result: Audit, outage_seconds: float | None = None
) -> None:
    """Record what became of a load that has ended, and the audit of it.

    Its longest outage is the longest time for which an application had no answer, unless it is given.
    """
    record_audit(record, result)
    record(REFUSED, load.refusals.total())
    record(LONGEST_OUTAGE, load.longest_wait_seconds if outage_seconds is None else outage_seconds)


class Outcome(StrEnum):
    """What became of a test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass
class Run:
    """One run of a test: its row, its outcome and figures, and why it was skipped."""

    row: str
    test: str
    outcome: Outcome
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def read_runs(report: Path, row: str = "") -> list[Run]:
    """The runs in a report of pytest. `row` is the row of tests that have no mark."""
    return [_read_run(case, row) for case in ET.parse(report).iter("testcase")]


def _read_run(case: ET.Element, row: str) -> Run:
    properties = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
    run = Run(properties.pop(ROW, row), case.get("name", ""), Outcome.PASSED)
    run.figures = {name: float(value) for name, value in properties.items()}
    if (skipped := case.find("skipped")) is not None:
        run.outcome, run.reason = Outcome.SKIPPED, skipped.get("message", "")
    if case.find("failure") is not None or case.find("error") is not None:
        run.outcome = Outcome.FAILED
    return run


@dataclass
class Row:
    """All runs of a fault."""

    name: str
    runs: list[Run]

    @property
    def outcome(self) -> Outcome:
        """Failed if one run has failed, and skipped if none was left to run."""
        found = {run.outcome for run in self.runs}
        return next(o for o in (Outcome.FAILED, Outcome.PASSED, Outcome.SKIPPED) if o in found)

    @property
    def verdict(self) -> str:
        """The outcome with what it needs: the tests that failed, why tests were skipped."""
        failed = sorted({run.test for run in self.runs if run.outcome is Outcome.FAILED})
        skipped = sorted({run.reason for run in self.runs if run.outcome is Outcome.SKIPPED})
        words = {
            Outcome.PASSED: "kept",
            Outcome.FAILED: f"**failed**: {', '.join(failed)}",
            Outcome.SKIPPED: "not run",
        }[self.outcome]
        return "; ".join([words, *skipped])

    def total(self, figure: str) -> float | None:
        """The sum of a figure over the runs; None if none has recorded it."""
        values = self._values(figure)
        return sum(values) if values else None

    def highest(self, figure: str) -> float | None:
        """The highest value of a figure; None if no run has recorded it."""
        return max(self._values(figure), default=None)

    def _values(self, figure: str) -> list[float]:
        return [run.figures[figure] for run in self.runs if figure in run.figures]


def is_named(row: str, part: str) -> bool:
    """Whether a row has this in its name, in upper or lower case."""
    return part.lower() in row.lower()


def rows(runs: Iterable[Run]) -> list[Row]:
    """The rows, in the order of their names, which begin with the engine."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.row, []).append(run)
    return [Row(name, by_name[name]) for name in sorted(by_name)]


def markdown(found: Sequence[Row], source: str, earlier: str = "") -> str:
    """The table. `source` says when and with what these rows were run.

    `earlier` is a table of earlier runs: rows that were not run now stay as they are there.
    """
    lines = {line.split("|")[1].strip(): line for line in earlier.splitlines()[2:] if "|" in line}
    for row in found:
        if row.outcome is Outcome.SKIPPED and row.name in lines:
            continue
        cells = (
            row.name,
            f"{sum(run.outcome is not Outcome.SKIPPED for run in row.runs)}",
            *(_cell(row.total(figure)) for figure in (ANSWERED, DIFFERENCES, REFUSED)),
            _cell(row.highest(LONGEST_OUTAGE), " s", digits=1),
            row.verdict,
            source,
        )
        lines[row.name] = f"| {' | '.join(cells)} |"
    return "\n".join([*_HEAD, *(lines[name] for name in sorted(lines))])


def _cell(value: float | None, unit: str = "", digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}{unit}"
