"""The comparison of lines with what is stored, and with earlier lines: every difference is a conflict."""

from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Conflict
from backend.transfer import format as line_format
from tests.support.transfer import (
    LATER,
    REMOVED,
    STORED_LINES,
    application_body,
    chat_body,
    describe_faults,
    dry_run,
    import_lines,
    locate_faults,
    message_body,
    query,
    read_everything,
)


@pytest.mark.parametrize(
    ("line", "differs"),
    [
        (application_body(name="other"), "name"),
        (application_body(created_at=LATER), "created_at"),
        (application_body(updated_at=LATER), "updated_at"),
        (application_body(**REMOVED), "removed, name"),
        (chat_body(created_at=LATER), "created_at"),
        (chat_body(updated_at=LATER), "updated_at"),
        (chat_body(**REMOVED), "removed"),
        (chat_body(2), "removed"),
        (message_body(text="Text 1"), "text"),
        (message_body(created_at=LATER), "created_at"),
        (message_body(updated_at=LATER), "updated_at"),
        (message_body(**REMOVED), "removed, text"),
        (message_body(2), "removed, text"),
        (message_body(2, **REMOVED, updated_at=LATER), "updated_at"),
    ],
)
def test_a_line_that_differs_from_what_is_stored_is_a_conflict(
    stored_lines_backend: Backend, line: dict[str, Any], differs: str
) -> None:
    """The error names the line and its differing fields; neither the line nor a later one is stored."""
    before = read_everything(stored_lines_backend)
    lines = [STORED_LINES[1], line, message_body(3)]
    work, faults = import_lines(stored_lines_backend, lines)
    assert locate_faults(faults) == [(2, Conflict)]
    assert faults[0].error.message.endswith(f"differs from what is there in {differs}")
    assert (work.counts.stored, work.counts.skipped) == (0, 1)
    assert read_everything(stored_lines_backend) == before
    assert describe_faults(dry_run(stored_lines_backend, lines)) == describe_faults(faults)


def test_a_line_that_differs_from_an_earlier_line_is_a_conflict(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import and a dry run find it, also if the earlier line was in another chunk."""
    lines = [
        application_body(),
        chat_body(),
        message_body(7),
        *map(message_body, range(100, 105)),
        message_body(7, text="x"),
    ]
    for size in (5_000, 2):
        monkeypatch.setattr(line_format, "CHUNK_LINES", size)
        assert locate_faults(dry_run(backend, lines)) == [(9, Conflict)]
    assert locate_faults(import_lines(backend, lines)[1]) == [(9, Conflict)]
    assert query(backend, "SELECT count(*) FROM message") == [(6,)]
