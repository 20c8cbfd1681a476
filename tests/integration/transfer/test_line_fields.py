"""Every field of a line is compared, stored and exported, so that a new field cannot be forgotten."""

from collections.abc import Callable
from typing import Any

import pytest

from backend.bootstrap import Backend
from backend.domain.errors import Conflict
from backend.storage.postgres.statements import field_names
from backend.transfer.format import ApplicationLine, ChatLine, MessageLine
from tests.support.transfer import (
    LATER,
    application_body,
    chat_body,
    decode_lines,
    dry_run,
    export,
    import_lines,
    message_body,
)

BODY_MAKERS: dict[type, Callable[..., dict[str, Any]]] = {
    ApplicationLine: application_body,
    ChatLine: chat_body,
    MessageLine: message_body,
}
IDENTIFYING_FIELDS = {"token", "parent", "number"}  # they say which row a line describes
# Another value for each other field. A tombstone of an application or a message is a line without content.
OTHER_VALUES = {
    "name": "other",
    "text": "other",
    "removed": True,
    "created_at": "2026-01-31T23:59:58.000000Z",
    "updated_at": LATER,
}
FIELDS = [
    pytest.param(make, field, id=f"{line_type.__name__}.{field}")
    for line_type, make in BODY_MAKERS.items()
    for field in field_names(line_type)
    if field not in IDENTIFYING_FIELDS
]


@pytest.mark.parametrize(("make", "field"), FIELDS)
def test_a_line_that_differs_in_one_field_is_a_conflict(
    stored_lines_backend: Backend, make: Callable[..., dict[str, Any]], field: str
) -> None:
    """This holds for each field of each kind of line; the error names the field."""
    faults = dry_run(stored_lines_backend, [make(**{field: OTHER_VALUES[field]})])
    assert [type(fault.error) for fault in faults] == [Conflict]
    assert faults[0].error.message.endswith(f"differs from what is there in {field}")


def test_an_export_has_the_imported_value_of_each_field(backend: Backend) -> None:
    """An import stores no default in place of a value, and an export leaves none out."""
    unchanged = IDENTIFYING_FIELDS | {"removed"}
    lines = [
        make(
            **{name: OTHER_VALUES[name] for name in field_names(line_type) if name not in unchanged}
        )
        for line_type, make in BODY_MAKERS.items()
    ]
    assert import_lines(backend, lines)[1] == []
    for line, exported in zip(lines, decode_lines(export(backend)), strict=True):
        assert line.items() <= exported.items()
