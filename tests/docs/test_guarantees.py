"""docs/guarantees.md: each guarantee names a test, and each named test exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUARANTEES = ROOT / "docs" / "guarantees.md"
NAMED = re.compile(r"`(test_\w+)`")


def promises() -> list[list[str]]:
    """The rows of all tables, without the header rows."""
    lines = [line for line in GUARANTEES.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] not in ("promise", "---")]


def all_tests() -> set[str]:
    """The names of all tests."""
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    return {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)}


def test_each_promise_names_a_test_that_exists() -> None:
    """A promise whose test is missing or was renamed is not shown to hold."""
    there = all_tests()
    assert len(promises()) > 15
    for promise, _, shown_by in promises():
        named = NAMED.findall(shown_by)
        assert named, promise
        assert set(named) <= there, promise


def test_a_promise_is_one_sentence() -> None:
    """It has one full stop, at its end."""
    for promise, *_ in promises():
        assert promise.count(". ") == 0, promise
        assert promise.endswith("."), promise
