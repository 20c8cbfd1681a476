"""Durations as a user writes them: `90`, `90s`, `5m`, `1h` or `50ms`."""

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Seconds; a number alone is one of seconds. Raises ValueError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", text)
    if not found:
        raise ValueError(f"{text[:40]!r} is not a time, such as 90s or 5m")
    return float(found[1]) * _UNITS[found[2] or "s"]
