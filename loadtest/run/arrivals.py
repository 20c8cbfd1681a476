"""How far apart the arrivals of the open model are: evenly, as independent clients, or in bursts.

The gaps are drawn at a level of one arrival a second; the plan stretches them to its level, which may change.
Their mean is 1, so a run has the planned rate on average, with any spacing. The squared coefficient of
variation of the gaps is 0 for `uniform`, 1 for `poisson`, and 1/SHAPE for `gamma:SHAPE`: below a shape of 1
the arrivals come in bursts, and p99 rises at the same rate (Kingman's formula of queueing theory).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

MIN_SHAPE, MAX_SHAPE = 0.01, 1_000.0


@dataclass(frozen=True)
class Spacing:
    """The distribution of the gaps between arrivals: gamma, or even if `shape` is None."""

    name: str
    shape: float | None

    @classmethod
    def parse(cls, text: str) -> "Spacing":
        """From `uniform`, `poisson` or `gamma:SHAPE`. Raises ValueError for anything else."""
        if text == "uniform":
            return cls(text, None)
        if text == "poisson":
            return cls(text, 1.0)
        found = re.fullmatch(r"gamma:([0-9]+(?:\.[0-9]+)?)", text)
        if not found or not MIN_SHAPE <= float(found[1]) <= MAX_SHAPE:
            raise ValueError(
                f"{text[:40]!r} is not uniform, poisson or gamma:SHAPE with a shape of"
                f" {MIN_SHAPE:g} to {MAX_SHAPE:,.0f}"
            )
        return cls(text, float(found[1]))

    @property
    def variation(self) -> float:
        """The squared coefficient of variation of the gaps."""
        return 0.0 if self.shape is None else 1 / self.shape

    def times(self, seed: int) -> Iterator[float]:
        """When each arrival is due at one arrival a second, ascending without end; equal for equal seeds."""
        at = 0.5
        if self.shape is None:
            while True:
                yield at
                at += 1
        shape, rng = self.shape, Random(f"{seed}/arrivals")
        at = 0.0
        while True:
            at += rng.gammavariate(shape, 1 / shape)
            yield at
