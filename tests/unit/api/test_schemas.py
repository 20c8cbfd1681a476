"""The largest message that the schemas declare fits wherever the bytes of a message are limited."""

import json
from typing import Any

from backend.api.batch_body import MAX_BATCH_BODY_BYTES
from backend.api.request_body import MAX_BODY_BYTES
from backend.api.schemas import MessageInput
from backend.domain.model import CONTENT_CHECKS, MAX_BATCH, MAX_IMPORTED_NUMBER
from backend.transfer.format import MAX_LINE_BYTES, MessageLine, parse
from instachat_cli.runtime import stdin_messages

LONGEST_CHARACTER = "\N{GRINNING FACE}"  # four bytes in UTF-8, twelve as two escapes `\uXXXX`


def largest_message() -> dict[str, str]:
    """Each field at the maximum length that its schema declares."""
    properties: dict[str, Any] = MessageInput.model_json_schema()["properties"]
    lengths = {
        name: [
            each["maxLength"] for each in (schema, *schema.get("anyOf", ())) if "maxLength" in each
        ]
        for name, schema in properties.items()
    }
    assert all(lengths.values()), f"a field has no maximum length: {lengths}"
    return {name: LONGEST_CHARACTER * max(found) for name, found in lengths.items()}


def to_escaped_bytes(body: object) -> bytes:
    """JSON with an escape for every character that is not ASCII."""
    return json.dumps(body, ensure_ascii=True).encode()


def to_utf8_bytes(body: object) -> bytes:
    """JSON without such escapes."""
    return json.dumps(body, ensure_ascii=False).encode()


def test_the_largest_message_fits_into_a_body() -> None:
    """Also if all of it is escaped."""
    assert len(to_escaped_bytes({"message": largest_message()})) <= MAX_BODY_BYTES


def test_a_batch_of_the_largest_messages_fits_into_a_body() -> None:
    """If it is written in UTF-8; the limit is lower than what escapes need."""
    batch = {"messages": [largest_message()] * MAX_BATCH}
    assert len(to_utf8_bytes(batch)) <= MAX_BATCH_BODY_BYTES


def test_the_largest_message_fits_into_a_line_of_an_export() -> None:
    """Also if all of it is escaped; the line is parsed."""
    message = largest_message()
    assert message.keys() == CONTENT_CHECKS.keys()
    time = "9999-12-31T23:59:59.999999+00:00"
    line = to_escaped_bytes(
        {"type": "message", "removed": False, "token": "t" * 64}
        | {
            "chat": MAX_IMPORTED_NUMBER,
            "number": MAX_IMPORTED_NUMBER,
            "created_at": time,
            "updated_at": time,
        }
        | message
    )
    assert len(line) <= MAX_LINE_BYTES
    parsed = parse(line)
    assert isinstance(parsed, MessageLine)
    assert {name: getattr(parsed, name) for name in message} == message


def test_the_largest_text_fits_into_a_line_of_standard_input() -> None:
    """Where each line is the text of a message."""
    assert len(largest_message()["text"].encode()) <= stdin_messages.MAX_LINE_BYTES
