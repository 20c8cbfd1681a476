"""A line of `messages list --follow`."""

from datetime import UTC, datetime

import pytest

from backend.domain import serialization
from backend.domain.model import Message
from instachat_cli.runtime.follow_messages import _sentence
from tests.support.message_fields import MESSAGE_FIELDS, TEXT_ALONE

AT = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("event", [None, "edited"])
def test_a_line_has_every_field_that_a_client_wrote(event: str | None) -> None:
    """A field that is null is left out."""
    message = Message(number=7, created_at=AT, updated_at=AT, version=1, **MESSAGE_FIELDS)
    body = serialization.message(message) | ({} if event is None else {"event": event})
    for name, value in MESSAGE_FIELDS.items():
        assert value in _sentence(body)
        assert "None" not in _sentence(body | {name: None})


def test_a_line_of_a_text_alone_ends_with_the_text() -> None:
    """It is the line that a chat without any other field has."""
    message = Message(number=7, created_at=AT, updated_at=AT, version=1, **TEXT_ALONE)
    expected = f"7  2026-01-31T00:00:00.000000Z  {TEXT_ALONE['text']}"
    assert _sentence(serialization.message(message)) == expected
