"""Times that users write, as RFC 3339, and ages that they read."""

import re
from datetime import datetime, timedelta

from backend.domain.errors import Invalid

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
EXAMPLE = "2026-01-31T23:59:59Z"

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


def parse_rfc3339(text: str) -> datetime:
    """A time with its time zone, rounded down to microseconds. Raises Invalid.

    A leap second is the second after the one before it.
    """
    match = _RFC3339.fullmatch(text)
    if not match:
        raise Invalid(f"not an RFC 3339 time such as {EXAMPLE}, with Z or an offset")
    date, minute, second, fraction, zone = match.groups()
    leap = second == "60"
    written = f"{date}T{minute}:{'59' if leap else second}{(fraction or '.0')[:7]:0<7}"
    try:
        return datetime.fromisoformat(written + zone.upper()) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        raise Invalid(f"not a time that exists; a time is written as in {EXAMPLE}") from None


def format_age(seconds: int) -> str:
    """An age as users write it: `90d`, `36h`, `5m`, `45s`."""
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
