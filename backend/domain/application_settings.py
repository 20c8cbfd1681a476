"""An application's settings as users write them: its retention, `90d`, and its rate limit, `100/s`."""

import re

from backend.domain.errors import Invalid

OFF = "off"
MAX_PER_SECOND = 1_000_000
MAX_RETENTION_SECONDS = 36_600 * 86_400  # a hundred years; nothing is older
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def checked_retention(seconds: int) -> int:
    """The age, in seconds. Raises Invalid unless it can be a retention."""
    if not 1 <= seconds <= MAX_RETENTION_SECONDS:
        raise Invalid("the age must be between 1s and 36600d")
    return seconds


def parse_retention(age: str) -> int:
    """A retention such as `90d`, in seconds. Raises Invalid."""
    match = re.fullmatch("([0-9]{1,12})([smhd])", age, re.ASCII)
    if match is None:
        raise Invalid(f"{age[:40]!r} is not an age such as 90d, 12h, 15m or 90s")
    return checked_retention(int(match[1]) * _UNIT_SECONDS[match[2]])


def parse_rate(rate: str) -> int | None:
    """A limit such as `100/s`, in chats and messages a second, or `off` (None). Raises Invalid."""
    if rate == OFF:
        return None
    match = re.fullmatch("([0-9]{1,9})/s", rate)
    if match is None or not 1 <= int(match[1]) <= MAX_PER_SECOND:
        raise Invalid(
            f"{rate[:40]!r} is not a limit such as 100/s, from 1/s to {MAX_PER_SECOND}/s, or off"
        )
    return int(match[1])


def format_rate(per_second: int | None) -> str | None:
    """Such as `100/s`; None without a limit."""
    return None if per_second is None else f"{per_second}/s"
