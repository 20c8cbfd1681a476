"""Whether a run was steady: on series whose truth is known."""

import math
from collections.abc import Callable
from random import Random

import pytest

from loadtest.report.result import LoadModel, Moment, Trend, Window
from loadtest.run.steadiness import MIN_SECONDS, trends

SEEDS = range(100)


def p50_trend(seconds: int, seed: int, level: Callable[[float], float]) -> Trend:
    """The trend of a p50 that follows `level`, with noise that lasts from one second to the next."""
    rng, noise, timeline = Random(seed), 0.0, []
    for at in range(seconds):
        noise = 0.5 * noise + rng.gauss(0, 0.05)
        value = 10 * level(at / seconds) * math.exp(noise)
        timeline.append(Moment(at_s=at, level=1, rate=1, failures=0, p50_ms=value))
    (trend,) = trends(timeline, Window(0, seconds), LoadModel.OPEN)
    return trend


@pytest.mark.parametrize("seconds", [30, 120])
def test_noise_is_steady(seconds: int) -> None:
    """In at least 95 of 100 runs, and from the begin in most of them."""
    found = [p50_trend(seconds, seed, lambda _: 1.0) for seed in SEEDS]
    assert sum(trend.from_s is None for trend in found) <= 5
    assert sum(trend.from_s == 0 for trend in found) > 50


@pytest.mark.parametrize("seconds", [30, 120, 600])
def test_a_climb_is_never_steady(seconds: int) -> None:
    """A rise of 60 % within the run is found in nine of ten runs, with its size."""
    found = [p50_trend(seconds, seed, lambda share: 1 + 0.6 * share) for seed in SEEDS[:20]]
    assert sum(trend.from_s is None for trend in found) >= 18
    assert all(trend.change == pytest.approx(0.6, abs=0.3) for trend in found)


def test_a_slow_begin_is_cut_off() -> None:
    """The run is steady from the second on from which only noise is left."""
    found = [p50_trend(120, seed, lambda share: 1 + 4 * math.exp(-share * 20)) for seed in SEEDS]
    begins = sorted(trend.from_s for trend in found if trend.from_s is not None)
    assert len(begins) >= 95
    assert 10 < begins[len(begins) // 2] < 40
    assert all(abs(trend.change) < 0.3 for trend in found if trend.from_s is not None)


def test_a_short_run_and_a_planned_rate_say_nothing() -> None:
    """Ramp-up does not count; the rate is a measure only in the closed model."""
    timeline = [Moment(at_s=at, level=1, rate=at + 1, failures=0) for at in range(60)]
    assert trends(timeline, Window(0, MIN_SECONDS - 1), LoadModel.CLOSED) == []
    assert trends(timeline, Window(0, 60), LoadModel.OPEN) == []
    (rate,) = trends(timeline, Window(5, 60), LoadModel.CLOSED)
    assert (rate.name, rate.from_s) == ("rate", None)


def test_a_second_without_an_answer_is_no_logarithm_of_zero() -> None:
    """A rate of 0 counts as unsteady, not as a fault of the tool."""
    timeline = [Moment(at_s=at, level=1, rate=0 if at % 7 else 50, failures=0) for at in range(60)]
    assert len(trends(timeline, Window(0, 60), LoadModel.CLOSED)) == 1
