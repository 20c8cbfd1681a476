"""The audit trail: no change without a row, and pages of rows."""

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import SchemaMismatch
from backend.monitoring import audit_trail


def test_nothing_is_changed_without_a_row(backend: Backend) -> None:
    """If the row of a change cannot be written, the change is not begun."""
    with backend.database.begin() as tx:
        tx.exec_driver_sql("DROP TABLE operator_change")
    with pytest.raises(SchemaMismatch), backend.audit_trail.recorded("ann@db1", "purge", ""):
        pytest.fail("the change was begun")


def test_a_change_stays_unfinished_if_its_end_cannot_be_recorded(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """The change is made all the same, and the log says what the audit trail lacks."""
    with backend.audit_trail.recorded("ann@db1", "purge", "") as change:
        change.result = "done"
        with backend.database.begin() as tx:
            tx.exec_driver_sql("ALTER TABLE operator_change RENAME COLUMN result TO other")
    assert "the audit trail does not have how this ended" in caplog.text
    with backend.database.begin() as tx:
        tx.exec_driver_sql("ALTER TABLE operator_change RENAME COLUMN other TO result")
    assert [found.result for found in backend.audit_trail.list()] == [None]


def test_changes_are_read_page_by_page(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest first; a limit is that of all pages; any target can be stored."""
    monkeypatch.setattr(audit_trail, "PAGE", 2)
    targets = ["one", "two", "three", "\udcff" * 500, "five"]
    for target in targets:
        with backend.audit_trail.recorded("ann@db1", "purge", target) as change:
            change.counts["messages"] = len(target)
    found = list(backend.audit_trail.list())
    assert [change.target[:12] for change in found] == [
        "five",
        "\\udcff\\udcff",
        "three",
        "two",
        "one",
    ]
    assert [change.counts for change in found][-1] == {"messages": 3}
    assert len(found[1].target) == audit_trail.MAX_TARGET_CHARACTERS
    for limit in (1, 2, 3, 4):
        assert list(backend.audit_trail.list(limit=limit)) == found[:limit]
    assert list(backend.audit_trail.list(since=found[1].started_at)) == found[:2]
