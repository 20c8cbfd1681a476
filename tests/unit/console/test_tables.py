"""Tables and records: how a value is shown."""

from typing import Any

import pytest

from instachat_cli.bench.reports import performance
from instachat_cli.commands import messages
from instachat_cli.console import tables
from tests.support.message_fields import LONGEST_FIELDS, TEXT_ALONE

ROW = {"number": 1, "created_at": "2026-01-31T23:59:59.123456Z", "updated_at": None}


@pytest.mark.parametrize("width", ["80", "20"], ids=["table", "records"])
def test_a_time_that_is_null_is_a_dash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    """It has no time zone; a time has one, unless the title of the column names it."""
    monkeypatch.setenv("COLUMNS", width)
    tables.print_page([ROW], list(ROW), header=False)
    if width == "80":
        assert capsys.readouterr().out.split() == ["1", "2026-01-31", "23:59:59", "-"]
    else:
        assert capsys.readouterr().out.split()[-2:] == ["updated", "-"]


def test_a_record_shows_a_time_that_is_null_as_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a table."""
    tables.print_record(ROW)
    _, created, updated = capsys.readouterr().out.splitlines()
    assert created.split() == ["created", "2026-01-31", "23:59:59", "UTC"]
    assert updated.split() == ["updated", "-"]


@pytest.mark.parametrize("field", LONGEST_FIELDS)
def test_the_table_of_messages_holds_the_longest_value_of_each_field(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """In 80 columns: a message takes one line, which ends with its text, cut if it has to be."""
    monkeypatch.setenv("COLUMNS", "80")
    row: dict[str, Any] = (
        ROW | TEXT_ALONE | {"text": "a text alone"} | {field: LONGEST_FIELDS[field]}
    )
    tables.print_page([row], messages.COLUMNS, header=True)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "TEXT"
    assert max(len(header), len(line)) <= 80
    assert row["text"][:8] in line
    assert "None" not in line


def test_the_table_of_messages_leaves_most_of_its_width_to_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of 80 columns if the other fields are null; still the most of all if they are long."""
    monkeypatch.setenv("COLUMNS", "80")
    long = {"text": "x" * 100}
    for fields, least in ((TEXT_ALONE, 40), (LONGEST_FIELDS, 20)):
        tables.print_page([ROW | fields | long], messages.COLUMNS, header=False)
        (line,) = capsys.readouterr().out.splitlines()
        assert len(line) <= 80
        assert line.count("x") >= least, line


@pytest.mark.parametrize(("name", "shown"), [("n", 1), ("n" * 100, 12)], ids=["short", "long"])
def test_of_two_columns_that_can_be_cut_the_last_one_takes_the_remaining_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, shown: int
) -> None:
    """The other one has at most a sixth of the terminal, and no more than it needs."""
    monkeypatch.setenv("COLUMNS", "80")
    tables.print_page([{"name": name, "text": "x" * 100}], ["name", "text"], header=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert (len(line), line.count("n")) == (80, shown)
    assert line.count("x") >= 64


def test_the_table_of_benchmarks_wraps_the_title_and_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 80 columns: once the title took all of them, and the ratio had no room at all."""
    monkeypatch.setenv("COLUMNS", "80")
    what = "list the last chats of an application of 100,000 chats, against one of 100"
    row = {"what": what, "ratio": 0.1234, "goal": "at least 0.6, aim 1", "verdict": "missed"}
    tables.print_page([row], performance.BODY_COLUMNS, header=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join(" ".join(lines).split())
    assert all(cell in shown for cell in ("0.1234", "at least 0.6, aim 1", "missed")), lines
    assert "…" not in shown
