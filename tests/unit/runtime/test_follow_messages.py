"""A line of `messages list --follow`."""

from datetime import UTC, datetime

import pytest

from backend.domain import serialization
from backend.domain.model import Message
from instachat_cli.runtime.follow_messages import _sentence
from tests.support.message_fields import MESSAGE_FIELDS

AT = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("event", [None, "edited"])
def test_a_line_has_every_field_that_a_client_wrote(event: str | None) -> None:
    """A field that is null is left out."""
    message = Message(number=7, created_at=AT, updated_at=AT, version=1, **MESSAGE_FIELDS)
    body = serialization.message(message) | ({} if event is None else {"event": event})
    for name, value in MESSAGE_FIELDS.items():
        assert value in _sentence(body)
        assert "None" not in _sentence(body | {name: None})
