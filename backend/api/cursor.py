"""The cursor of a search over all chats of an application: the position at which its next page begins.

It is made of what the bodies show: a creation time in microseconds since 1970, a chat and a number.
"""

import re
from datetime import UTC, datetime

from backend.domain.events import from_micros, to_micros
from backend.domain.model import MessagePosition

CURSOR_PATTERN = r"^-?[0-9]{1,18}\.[0-9]{1,15}\.[0-9]{1,15}$"
_EARLIEST = to_micros(datetime.min.replace(tzinfo=UTC))
_LATEST = to_micros(datetime.max.replace(tzinfo=UTC))


def make_cursor(position: MessagePosition) -> str:
    """The cursor of a position."""
    return f"{to_micros(position.created_at)}.{position.chat}.{position.number}"


def parse_cursor(value: str) -> MessagePosition:
    """The position of a cursor. Raises ValueError."""
    # fullmatch: `$` would match before a line feed.
    if not re.fullmatch(CURSOR_PATTERN, value, re.ASCII):
        raise ValueError("not a cursor that a page of this list has as `next`")
    micros, chat, number = map(int, value.split("."))
    return MessagePosition(from_micros(min(max(micros, _EARLIEST), _LATEST)), chat, number)
