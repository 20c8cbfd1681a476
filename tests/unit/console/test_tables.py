"""Tables and records: how a value is shown."""

from typing import Any

import pytest

from backend.domain.model import CONTENT_CHECKS
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
    assert CONTENT_CHECKS[field](row[field]) == row[field]
    tables.print_page([row], messages.COLUMNS, header=True)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "TEXT"
    assert max(len(header), len(line)) <= 80
    assert row["text"][:8] in line
    assert "None" not in line
