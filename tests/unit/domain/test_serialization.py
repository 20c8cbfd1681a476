"""An object has the same fields in the domain, in its JSON body, in the OpenAPI schema and in a table."""

from collections.abc import Set
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from backend.api import schemas
from backend.domain import serialization
from backend.domain.model import Application, Chat, Match, Message
from backend.domain.serialization import JsonObject
from instachat_cli.commands import apps, chats, messages
from tests.support.message_fields import (
    EACH_MESSAGE,
    MESSAGE_FIELDS,
    TEXT_ALONE,
    without_nulls,
)

AT = datetime(2026, 1, 31, tzinfo=UTC)
APPLICATION = Application("t" * 24, "name", chats_count=1, created_at=AT, updated_at=AT, version=1)
CHAT = Chat(1, messages_count=1, created_at=AT, updated_at=AT)
MESSAGE = Message(number=1, created_at=AT, updated_at=AT, version=1, **MESSAGE_FIELDS)
MATCH = Match(MESSAGE, [(0, 4)])
BODIES = {
    Application: serialization.application(APPLICATION),
    Chat: serialization.chat(CHAT),
    Message: serialization.message(MESSAGE),
    Match: serialization.match(MATCH),
}
# The fields of the domain that users do not see as fields: a version is an ETag.
INTERNAL_FIELDS: dict[type, Set[str]] = {Application: {"version"}, Message: {"version"}}


def test_the_fast_path_decodes_the_same_body() -> None:
    """A field that only the ordinary route knows would send every such request there."""
    assert (
        set(schemas.FastMessageInput.__struct_fields__) == schemas.MessageInput.model_fields.keys()
    )
    assert set(schemas.FastMessageBody.__struct_fields__) == schemas.MessageBody.model_fields.keys()
    plain = msgspec.json.decode(
        b'{"message": {"text": "a text alone"}}', type=schemas.FastMessageBody
    )
    assert plain.message.new_message() == schemas.MessageInput(text="a text alone").new_message()


@EACH_MESSAGE
@pytest.mark.parametrize("body_type", [schemas.MessageInput, schemas.FastMessageInput])
def test_a_new_message_has_every_field_that_a_client_writes(
    body_type: Any, fields: dict[str, Any]
) -> None:
    """What a dead letter shows of a message is what the request for it had, by either route; or null."""
    assert MESSAGE_FIELDS.keys() == schemas.MessageInput.model_fields.keys()
    assert serialization.new_message(body_type(**without_nulls(fields)).new_message()) == fields
    assert body_type(**fields).new_message() == body_type(**without_nulls(fields)).new_message()


def test_a_text_is_a_new_message() -> None:
    """Whatever other fields there are: they are null."""
    assert serialization.new_message(TEXT_ALONE["text"]) == TEXT_ALONE


def names(domain_type: type[Any]) -> set[str]:
    """The names of a dataclass's fields."""
    return {field.name for field in fields(domain_type)}


@pytest.mark.parametrize("domain_type", [Application, Chat, Message])
def test_a_body_has_every_field_of_the_domain(domain_type: type) -> None:
    """Except those that are internal, which are listed here."""
    internal = INTERNAL_FIELDS.get(domain_type, set())
    assert internal <= names(domain_type)
    assert BODIES[domain_type].keys() == names(domain_type) - internal


def test_the_body_of_a_match_is_its_message_and_its_other_fields() -> None:
    """The message's fields are not nested."""
    assert BODIES[Match].keys() == BODIES[Message].keys() | names(Match) - {"message"}


@pytest.mark.parametrize(
    ("domain_type", "schema"),
    [
        (Application, schemas.Application),
        (Chat, schemas.Chat),
        (Message, schemas.Message),
        (Match, schemas.Found),
    ],
)
def test_a_schema_has_the_fields_of_its_body(
    domain_type: type, schema: type[schemas.BaseSchema]
) -> None:
    """OpenAPI describes every field that a response has, and the body is valid."""
    assert schema.model_fields.keys() == BODIES[domain_type].keys()
    schema.model_validate(BODIES[domain_type])


@pytest.mark.parametrize("schema", [schemas.Message, schemas.Found])
def test_the_body_of_a_text_alone_is_valid(schema: type[schemas.BaseSchema]) -> None:
    """A response has a null in place of each field that a client did not write."""
    message = Message(number=1, created_at=AT, updated_at=AT, version=1, **TEXT_ALONE)
    schema.model_validate(serialization.match(Match(message, [])))


@pytest.mark.parametrize(
    ("body", "columns", "left_out"),
    [
        (BODIES[Application], apps.COLUMNS, {"updated_at"}),
        (BODIES[Chat], chats.COLUMNS, set()),
        (BODIES[Message], messages.COLUMNS, {"updated_at"}),
        (BODIES[Match], messages.COLUMNS, {"updated_at", "highlight"}),  # highlight: marks the text
    ],
    ids=["apps list", "chats list", "messages list", "search"],
)
def test_a_table_shows_every_field_or_leaves_it_out_on_purpose(
    body: JsonObject, columns: tuple[str, ...], left_out: set[str]
) -> None:
    """80 columns do not hold all fields; those that a list does not print are named here."""
    assert sorted([*columns, *left_out]) == sorted(body)
