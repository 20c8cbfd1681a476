"""What a follower of a chat is told."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from backend.domain.model import Message

ChatKey: TypeAlias = tuple[str, int]
"""A chat by its application's token and its number."""


class GoneReason(StrEnum):
    """Why there is no message under a number that was issued."""

    REMOVED = "removed"
    """It was deleted."""
    REJECTED = "rejected"
    """Its creation could not be stored: a dead letter."""
    LOST = "lost"
    """It exists nowhere, or the number was skipped."""


class Created(NamedTuple):
    """A stored message whose turn it is."""

    message: Message

    @property
    def number(self) -> int:
        """The last number that this event decides."""
        return self.message.number


class Gone(NamedTuple):
    """Numbers that hold no message, from `first` to `number`."""

    first: int
    number: int
    reason: GoneReason


class Edited(NamedTuple):
    """A message that the follower has passed, as it is now."""

    message: Message


class Deleted(NamedTuple):
    """A message that the follower has passed was deleted."""

    number: int


class EndReason(StrEnum):
    """Why there is nothing more to follow."""

    DELETED = "deleted"
    """The chat or its application was deleted."""
    LOST = "lost"
    """The chat exists nowhere: its creation was lost before it was stored."""


class Ended(NamedTuple):
    """There is no such chat any more; nothing follows."""

    reason: EndReason


class Started(NamedTuple):
    """The follower named no number: it is told of the numbers after this one."""

    after: int


Decided: TypeAlias = Created | Gone
"""What became of a number: each number's comes once, in order."""
Changed: TypeAlias = Edited | Deleted
Event: TypeAlias = Decided | Changed | Ended | Started
Encode: TypeAlias = Callable[[Event], bytes]
"""Makes the bytes that are sent for an event."""
