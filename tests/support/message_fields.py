"""A value for each field that a client writes of a message: a new field fails tests until it has one here."""

from typing import Any

# JSON, COPY or a reader of lines needs an escape for each of these characters.
_ESCAPED = '\t\\N\n\r\u2028"end'
MESSAGE_FIELDS: dict[str, Any] = {
    name: value + _ESCAPED for name, value in {"text": "perhaps refused"}.items()
}
INVALID_FIELDS: dict[str, list[object]] = {
    "text": ["", "a" * 10_001, "a\0b", "\ud800", 1, None],
}
NOT_EDITABLE: set[str] = set()
"""The fields that an edit can't change."""


def other_fields() -> dict[str, Any]:
    """Another value for each field."""
    return {name: f"other {value}" for name, value in MESSAGE_FIELDS.items()}
