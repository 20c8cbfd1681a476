"""Tells shifts from chance: rank tests of all compared values at once.

The unit is a run, never a second of it: the seconds of a run are correlated, so that they say little about
how far the next run will be from this one. Runs that took turns are compared in pairs, because what slows the
machine down for a while slows both runs of a pair. The size of a shift is the Hodges-Lehmann estimate, which
is a median: the median of all means of two pairs, or of all differences between runs of both sides. Its
interval consists of the same values, by the ranks of the Wilcoxon tests.

A comparison has many values, and some of them look worse by chance. Whether a shift is certain is therefore
decided by how often the *greatest* of all rank sums would be as great if the labels before and after were
given at random (the maxT permutation test of Westfall and Young 1993). All values of a run get the same
label, so that what they have in common does not count several times.

What slows a server down slows most requests down. So one value, the median of them all, has half of the false
alarms to itself, and the others together have the rest. On real runs of 20 rounds that found a slowdown of a
tenth in 37 of 40 comparisons instead of 29 (`tools/measure_alarms.py`).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from operator import mul
from random import Random
from statistics import NormalDist, median
from typing import NamedTuple

# Runs of a side; fewer have too few ranks for a shift that is certain among many values.
MIN_PAIRS, MIN_RUNS = 8, 6
MAX_P = 0.05  # the probability that a comparison of equal sides has any certain shift
RELABELLINGS = 499
Z = NormalDist().inv_cdf(0.975)
TINY = 1e-9  # equal sums, added up in another order, differ by less


class Shift(NamedTuple):
    """How much greater the values are after than before, with its interval of 95 %.

    `is_certain`: the values have become greater, and by more than chance explains in any compared value.
    """

    size: float
    low: float
    high: float
    is_certain: bool


def paired_shifts(differences: Sequence[Sequence[float]], first: int | None = None) -> list[Shift]:
    """The shift of each value, which has a difference, after minus before, for each of MIN_PAIRS or more.

    `first` is the place of the value that has half of the false alarms to itself.
    """
    count, rng = len(differences[0]), Random("pairs")
    scores = [_signed_ranks(values) for values in differences]
    signs = ([rng.choice((-1, 1)) for _ in range(count)] for _ in range(RELABELLINGS))
    certain = _certain(scores, [1] * count, signs, first)
    squares = count * (count + 1) * (2 * count + 1)
    left_out = int(count * (count + 1) / 4 - Z * math.sqrt(squares / 24))
    return [
        _shift([(a + b) / 2 for a, b in combinations_with_replacement(values, 2)], left_out, is_so)
        for values, is_so in zip(differences, certain, strict=True)
    ]


def unpaired_shifts(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]], first: int | None = None
) -> list[Shift]:
    """The shift of each value, which has a number for each of MIN_RUNS runs or more of either side.

    `first`: see `paired_shifts`.
    """
    before, after, rng = len(old[0]), len(new[0]), Random("runs")
    scores = [_centered_ranks([*a, *b]) for a, b in zip(old, new, strict=True)]
    labels = [0] * before + [1] * after
    relabelled = (rng.sample(labels, len(labels)) for _ in range(RELABELLINGS))
    certain = _certain(scores, labels, relabelled, first)
    product = before * after
    left_out = int(product / 2 - Z * math.sqrt(product * (before + after + 1) / 12))
    return [
        _shift([y - x for x in a for y in b], left_out, is_so)
        for a, b, is_so in zip(old, new, certain, strict=True)
    ]


def _shift(estimates: list[float], left_out: int, is_certain: bool) -> Shift:
    """The median of the estimates, and those that are left when as many are cut off at both ends."""
    ordered = sorted(estimates)
    low, high = ordered[left_out - 1], ordered[-left_out]
    return Shift(median(ordered), low, high, is_certain)


def _certain(
    scores: Sequence[Sequence[float]],
    labels: Sequence[int],
    relabelled: Iterable[Sequence[int]],
    first: int | None,
) -> list[bool]:
    """For each value, whether few relabellings have a rank sum as great, of any value of its family."""
    scaled = [_scaled(values) for values in scores]
    others = [place for place in range(len(scaled)) if place != first]
    families = [family for family in ([] if first is None else [first], others) if family]
    by_chance = [[sum(map(mul, labels_, s)) for s in scaled] for labels_ in relabelled]
    certain = [False] * len(scaled)
    for family in families:
        greatest = sorted(max(sums[place] for place in family) for sums in by_chance)
        limit = greatest[-int(MAX_P / len(families) * (RELABELLINGS + 1))] + TINY
        for place in family:
            certain[place] = sum(map(mul, labels, scaled[place])) > limit
    return certain


def _scaled(scores: Sequence[float]) -> list[float]:
    """Scores of length 1, so that the sums of all values are comparable; 0 if all are."""
    length = math.sqrt(sum(score * score for score in scores))
    return [score / length if length else 0.0 for score in scores]


def _signed_ranks(differences: Sequence[float]) -> list[float]:
    """The rank of each difference's size, with the sign of the difference; 0 for none."""
    ranks = _ranks([abs(difference) for difference in differences])
    return [
        math.copysign(rank, value) if value else 0.0
        for rank, value in zip(ranks, differences, strict=True)
    ]


def _centered_ranks(values: Sequence[float]) -> list[float]:
    middle = (len(values) + 1) / 2
    return [rank - middle for rank in _ranks(values)]


def _ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1; equal values share the mean of theirs."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values), 1):
        places.setdefault(value, []).append(place)
    return [sum(places[value]) / len(places[value]) for value in values]
