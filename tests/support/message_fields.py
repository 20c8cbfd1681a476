"""A value for each field that a client writes of a message: a new field fails tests until it has one here."""

from typing import Any

import pytest

# JSON, COPY or a reader of lines needs an escape for each of these characters.
_ESCAPED = '\t\\N\n\r\u2028"end'
LONE_SURROGATE = "\ud800"
MESSAGE_FIELDS: dict[str, Any] = {
    name: value + _ESCAPED for name, value in {"text": "perhaps refused"}.items()
}
"""A message with every field."""
LIMITS: dict[str, int] = {"text": 10_000}
"""The most characters that each field can have; the least is one."""
INVALID_FIELDS: dict[str, list[object]] = {
    name: ["", "a" * (limit + 1), "a\0b", LONE_SURROGATE, 1, *([None] if name == "text" else [])]
    for name, limit in LIMITS.items()
}
"""Values beyond the limits of each field: every field but the text can be null."""
NOT_EDITABLE: set[str] = set()
"""The fields that an edit can't change."""

TEXT_ALONE: dict[str, Any] = dict.fromkeys(MESSAGE_FIELDS) | {"text": f"refused alone{_ESCAPED}"}
"""A message with its text alone, as it is read: every other field is null."""
LONGEST_FIELDS: dict[str, Any] = {name: "a" * limit for name, limit in LIMITS.items()}
"""A message whose fields are as long as they can be."""
MESSAGES = [MESSAGE_FIELDS, TEXT_ALONE]
EACH_MESSAGE = pytest.mark.parametrize("fields", MESSAGES, ids=["every field", "text alone"])


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null: what a client writes of a message, and what a line of an export has."""
    return {name: value for name, value in fields.items() if value is not None}


def other_fields() -> dict[str, Any]:
    """Another value for each field."""
    return {name: f"other {value}" for name, value in MESSAGE_FIELDS.items()}
