"""Tables and records: how a value is shown."""

import pytest

from instachat_cli.console import tables

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
