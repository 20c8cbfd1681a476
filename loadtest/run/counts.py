"""Counts as a user writes them: `5000`, `100k` or `1m`."""

import re

_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


def parse_count(text: str) -> int:
    """The number. Raises ValueError for anything else."""
    found = re.fullmatch(r"([0-9]{1,12})([km]?)", text)
    if not found:
        raise ValueError(f"{text[:40]!r} is not a count, such as 5000, 100k or 1m")
    return int(found[1]) * _FACTORS[found[2]]
