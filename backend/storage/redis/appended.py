"""The reply of a script that appends: one flat list, with what became of each shard's requests.

Redis takes longer for a list in a reply than for all numbers that a shard's part has.
"""

from collections.abc import Sequence
from typing import Any

_HEAD = 4  # count, epoch, sequence and notify, before so many answers


def split_reply(reply: Sequence[Any]) -> list[Any]:
    """Each shard's part.

    It is `[count, epoch, sequence, notify, answer, …]`, a refusal `[reason, …]`, or an error.
    """
    parts: list[Any] = []
    place, end = 0, len(reply)
    while place < end:
        first = reply[place]
        if type(first) is int:
            behind = place + _HEAD + first
            parts.append(reply[place:behind])
            place = behind
        else:
            parts.append(first)
            place += 1
    return parts


def is_appended(part: Any) -> bool:
    """Whether a shard's part says that its requests were answered, one by one."""
    return type(part) is list and type(part[0]) is int
