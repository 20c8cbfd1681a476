"""A small chart on one line of text."""

from collections.abc import Sequence
from statistics import fmean

BLOCKS = "▁▂▃▄▅▆▇█"


def chart(values: Sequence[float | None], width: int) -> str:
    """The values as blocks whose height is relative to the highest value.

    Unknown values (None) are gaps. If there are more values than `width`, each block is the mean of several.
    Empty if all values are unknown.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    pooled = [_mean(values[begin:end]) for begin, end in _parts(len(values), width)]
    highest = max((value for value in pooled if value is not None), default=0.0)
    return "".join(" " if value is None else _block(value, highest) for value in pooled)


def _parts(count: int, width: int) -> list[tuple[int, int]]:
    parts = min(count, width)
    return [(count * n // parts, count * (n + 1) // parts) for n in range(parts)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _block(value: float, highest: float) -> str:
    return BLOCKS[round(value / highest * (len(BLOCKS) - 1)) if highest else 0]
