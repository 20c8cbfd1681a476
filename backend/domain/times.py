"""Times that users write: RFC 3339."""

import re
from datetime import datetime, timedelta

from backend.domain.errors import Invalid

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
EXAMPLE = "2026-01-31T23:59:59Z"


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
