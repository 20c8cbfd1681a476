"""A dry run finds every fault of a file, and writes nothing."""

import io

from backend.bootstrap import Backend
from backend.domain.errors import Conflict, Invalid
from backend.transfer import format as line_format
from tests.integration.transfer.conftest import SampleExport
from tests.support.transfer import (
    REMOVED,
    STORED_LINES,
    application_body,
    chat_body,
    describe_faults,
    dry_run,
    import_lines,
    message_body,
    read_everything,
    to_bytes,
)


def test_a_dry_run_reports_every_invalid_line_and_every_conflict(backend: Backend) -> None:
    """A line whose parent's line has a fault is not reported as well; nothing is written."""
    import_lines(backend, STORED_LINES)
    before = read_everything(backend)
    lines = [
        *(STORED_LINES[0], STORED_LINES[2], STORED_LINES[4], STORED_LINES[5]),  # stored already
        chat_body(3, updated_at="x"),  # invalid
        message_body(chat=3),  # no fault: its parent's line has one
        message_body(9, chat=3),  # no fault
        message_body(1, text="other"),  # conflict
        message_body(3),  # new
        chat_body(4, **REMOVED),  # new
        message_body(chat=4),  # invalid: its chat is removed
        chat_body(2),  # conflict: the chat is removed in SQL
        message_body(chat=2),  # conflict, as its chat's line
        message_body(1, chat=9),  # invalid: there is no chat 9
        application_body(token="u" * 24, name=""),  # invalid
        chat_body(token="u" * 24),  # no fault: its application's line has one
        message_body(token="u" * 24),  # no fault
    ]
    data = to_bytes(lines) + b"not JSON\n" + b"\xff\n" + to_bytes([message_body(4)])
    kinds = {line: kind for line, kind, _ in describe_faults(dry_run(backend, data))}
    assert kinds == {
        **dict.fromkeys([5, 11, 14, 15, 18, 19], Invalid),
        **dict.fromkeys([8, 12, 13], Conflict),
    }
    assert read_everything(backend) == before


def test_a_dry_run_of_new_lines_counts_what_an_import_stores(
    backend: Backend, sample: SampleExport
) -> None:
    """It writes nothing; it does not even begin an epoch in an empty Redis."""
    before = read_everything(backend)
    work = backend.importer.dry_run()
    for chunk in line_format.read_chunks(io.BytesIO(sample.data).read):
        assert not work.process(chunk)
    assert read_everything(backend) == before
    assert import_lines(backend, sample.data)[0].counts == work.counts
