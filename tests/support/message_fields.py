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
INVALID_FIELDS: dict[str, list[object]] = {
    "text": ["", "a" * 10_001, "a\0b", LONE_SURROGATE, 1, None],
}
NOT_EDITABLE: set[str] = set()
"""The fields that an edit can't change."""

TEXT_ALONE: dict[str, Any] = dict.fromkeys(MESSAGE_FIELDS) | {"text": f"refused alone{_ESCAPED}"}
"""A message with its text alone, as it is read: every other field is null."""
LONGEST_FIELDS: dict[str, Any] = {
    name: max((value for value in values if isinstance(value, str)), key=len)[:-1]
    for name, values in INVALID_FIELDS.items()
}
"""A message whose fields are as long as they can be: one character less than the value that is too long."""
MESSAGES = [MESSAGE_FIELDS, TEXT_ALONE]
EACH_MESSAGE = pytest.mark.parametrize("fields", MESSAGES, ids=["every field", "text alone"])


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null: what a client writes of a message, and what a line of an export has."""
    return {name: value for name, value in fields.items() if value is not None}


def other_fields() -> dict[str, Any]:
    """Another value for each field."""
    return {name: f"other {value}" for name, value in MESSAGE_FIELDS.items()}
