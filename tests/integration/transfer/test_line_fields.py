"""Every field of a line is compared, stored and exported, so that a new field cannot be forgotten."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from backend.bootstrap import Backend
from backend.domain import serialization
from backend.domain.application_settings import format_rate
from backend.domain.errors import Conflict
from backend.domain.model import Chat, Message
from backend.domain.times import format_age
from backend.storage.postgres.statements import field_names
from backend.transfer.format import ApplicationLine, ChatLine, MessageLine
from tests.support.message_fields import TEXT_ALONE, other_fields
from tests.support.transfer import (
    LATER,
    TOKEN,
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
# They say which row a line describes; a range only a tombstone's line has (see test_left_out.py).
IDENTIFYING_FIELDS = {"token", "parent", "number", "first"}
# Another value for each other field. A tombstone of an application or a message is a line without content.
OTHER_VALUES = {
    "name": "other",
    **other_fields(),
    "removed": True,
    "retention": "90d",
    "limit": "100/s",
    "created_at": "2026-01-31T23:59:58.000000Z",
    "updated_at": LATER,
}
CHANGED_LINES = [
    make(
        **{
            name: OTHER_VALUES[name]
            for name in field_names(line_type)
            if name not in IDENTIFYING_FIELDS | {"removed"}
        }
    )
    for line_type, make in BODY_MAKERS.items()
]
FIELDS = [
    pytest.param(make, field, id=f"{line_type.__name__}.{field}")
    for line_type, make in BODY_MAKERS.items()
    for field in field_names(line_type)
    if field not in IDENTIFYING_FIELDS
]


def test_the_other_values_of_times_differ() -> None:
    """Two fields of one value could be mixed up unnoticed."""
    times = [value for name, value in OTHER_VALUES.items() if name.endswith("_at")]
    assert len(set(times)) == len(times)


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
    assert import_lines(backend, CHANGED_LINES)[1] == []
    for line, exported in zip(CHANGED_LINES, decode_lines(export(backend)), strict=True):
        assert line.items() <= exported.items()


def test_a_read_returns_the_imported_value_of_each_field(backend: Backend) -> None:
    """What an application, a chat and a message show equals their lines."""
    import_lines(backend, CHANGED_LINES)
    settings = {
        "retention": format_age(backend.retention.get(TOKEN) or 0),
        "limit": format_rate(backend.rate_limits.get(TOKEN)),
    }
    bodies = [
        serialization.application(backend.catalog.applications.get(TOKEN)) | settings,
        serialization.chat(cast("Chat", backend.catalog.chats.get(TOKEN, 1))),
        serialization.message(cast("Message", backend.catalog.messages.get(TOKEN, 1, 1))),
    ]
    for line_type, line, body in zip(
        BODY_MAKERS, decode_lines(export(backend)), bodies, strict=True
    ):
        internal = {"type", "chat"} if line_type is MessageLine else {"type"}
        shown = {name: value for name, value in line.items() if name not in internal}
        assert shown.items() == {"token": TOKEN, **body}.items()


def test_a_text_alone_is_imported_and_exported_unchanged(backend: Backend) -> None:
    """A field that its line lacks is null, beside a message that has the field."""
    line = message_body(2, **TEXT_ALONE)
    assert import_lines(backend, [*CHANGED_LINES, line])[1] == []
    message = cast("Message", backend.catalog.messages.get(TOKEN, 1, 2))
    assert serialization.message(message).items() >= TEXT_ALONE.items()
    exported = export(backend)
    assert decode_lines(exported)[-1] == line
    assert dry_run(backend, exported) == []


def test_an_export_of_tombstones_equals_what_is_stored(backend: Backend) -> None:
    """A tombstone has lost every value that a user gave it, in its row as in its line."""
    import_lines(backend, CHANGED_LINES)
    backend.catalog.messages.delete(TOKEN, 1, 1)
    backend.catalog.chats.delete(TOKEN, 1)
    assert dry_run(backend, export(backend)) == []
    backend.catalog.applications.delete(TOKEN)
    assert dry_run(backend, export(backend)) == []
