"""`bench compare`: tells changes from noise, and refuses to compare different loads."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest

from loadtest.report.compare import (
    Method,
    changes,
    differing_options,
    failures,
    markdown,
    method,
    missing,
)
from loadtest.report.result import Audit, Breakpoint, Lags, Moment, Result, Spread, Window, dumps
from tests.load.conftest import run_bench
from tests.load.test_docs import commands
from tests.load.test_parts import RESULT, ROW

SECONDS = 60


def runs(
    seed: int, count: int, p99_ms: float = 20.0, rate: float = 500.0, lag_ms: float = 30.0
) -> list[Result]:
    """Runs whose figures vary by about a tenth, as on a shared machine."""
    rng = Random(seed)

    def about(value: float) -> float:
        return value * rng.lognormvariate(0, 0.1)

    made = []
    for _ in range(count):
        row = replace(ROW, name="GET /x", rate=about(rate), failures=0, errors={})
        row = replace(row, p50_ms=about(5), p95_ms=about(9), p99_ms=about(p99_ms))
        timeline = [
            Moment(
                *(float(at), 1.0, about(rate), 0, about(5), about(9), about(p99_ms)),
                stored_ms=about(lag_ms),
                delivered_ms=about(lag_ms),
                cpu_servers=about(0.4),
                memory_servers_mb=about(300),
            )
            for at in range(SECONDS)
        ]
        lag = Spread(300, about(lag_ms), about(2 * lag_ms), about(3 * lag_ms), 1_000.0)
        made.append(
            replace(
                RESULT,
                window=Window(0, SECONDS),
                requests=[row],
                total=replace(row, name="all"),
                timeline=timeline,
                lag_ms=Lags(lag, lag, lag),
                cpu=replace(RESULT.cpu, servers=about(0.4)),
                memory_mb=replace(RESULT.memory_mb, servers=about(300)),
            )
        )
    return made


@pytest.mark.parametrize("count", [1, 3, 8])
def test_noise_is_no_regression(count: int) -> None:
    """Of forty comparisons of equal servers, at most two report a regression."""
    blamed = 0
    for seed in range(40):
        found = changes(runs(seed, count), runs(seed + 1_000, count))
        # The rate; three percentiles of two rows and of three lags; processors and memory of the servers.
        assert len(found) == 1 + 5 * 3 + 2
        blamed += any(change.regressed(0.05) for change in found)
    assert blamed <= 2


def turns(seed: int, slowdown: float, rounds: int = 12) -> tuple[list[Result], list[Result]]:
    """Runs of 8 s that took turns on a shared machine, the after side slower by that factor.

    What other programs take wanders from second to second, by a sixth in all, and so do latencies within a
    run. Each run has a level of its own, by 3 %, and each of its values has noise, by 2 %.
    """
    rng, machine = Random(seed), 0.0
    sides: tuple[list[Result], list[Result]] = [], []
    for _ in range(rounds):
        for side in rng.sample((0, 1), 2):
            level, noise, seconds = rng.gauss(0, 0.03), 0.0, []
            for _ in range(8):
                machine = 0.98 * machine + rng.gauss(0, 0.03)
                noise = 0.8 * noise + rng.gauss(0, 0.03)
                seconds.append(machine + level + noise)
            slow = math.exp(median(seconds)) * (slowdown if side else 1)

            def about(value: float, slow: float = slow) -> float:
                return value * slow * rng.lognormvariate(0, 0.02)

            row = replace(ROW, p50_ms=about(5), p95_ms=about(9), p99_ms=about(20))
            lag = Spread(300, about(30), about(60), about(90), 1_000.0)
            at = len(sides[0]) + len(sides[1])
            sides[side].append(
                replace(
                    RESULT,
                    started_at=f"2026-11-01T00:{at:02}:00Z",
                    requests=[replace(row, name="GET /x")],
                    total=row,
                    lag_ms=Lags(lag, lag),
                    cpu=replace(RESULT.cpu, servers=about(0.4)),
                )
            )
    return sides


def test_a_tenth_is_found_and_equal_builds_are_not_blamed() -> None:
    """Of forty comparisons of equal builds, at most 5 % have a regression; of builds slower by 10 %, 90 %."""

    def blamed(slowdown: float) -> int:
        compared = (turns(seed, slowdown) for seed in range(40))
        return sum(any(c.regressed(0.05) for c in changes(*sides)) for sides in compared)

    assert method(*turns(1, 1.0)) is Method.PAIRS
    assert blamed(1.0) <= 0.05 * 40
    assert blamed(1.1) >= 0.9 * 40


def test_runs_are_pairs_only_if_they_took_turns() -> None:
    """All before, then all after: the rank test must not take them for pairs; nor seven of them."""
    before, after = turns(1, 1.0, rounds=8)
    assert (
        method(before, list(reversed(after))) is Method.PAIRS
    )  # by their times, not by their places
    later = [replace(run, started_at=run.started_at.replace("11-01", "11-02")) for run in after]
    assert method(before, later) is Method.RUNS
    assert method(before[:7], after[:7]) is Method.RUNS
    assert method(before[:5], after[:5]) is Method.SPREAD
    assert method(before[:2], after[:5]) is Method.SECONDS


def test_rare_requests_have_no_high_percentiles() -> None:
    """A p99 needs a hundred requests in each run, and a p95 needs twenty."""

    def compared(count: int) -> list[str]:
        made = [
            replace(run, requests=[replace(run.requests[0], count=count)], total=run.total)
            for run in runs(1, 3)
        ]
        assert missing(runs(1, 3), made) == []
        found = changes(runs(1, 3), made)
        return [change.metric.name for change in found if change.metric.of_what == "GET /x"]

    assert compared(100) == ["p50 ms", "p95 ms", "p99 ms"]
    assert compared(99) == ["p50 ms", "p95 ms"]
    assert compared(19) == ["p50 ms"]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_half_the_speed_is_a_regression(count: int) -> None:
    """A much higher p99 or lag, or a much lower rate, is a regression; the reverse is not."""
    for worse in (
        runs(2, count, p99_ms=60.0),
        runs(2, count, rate=150.0),
        runs(2, count, lag_ms=90.0),
    ):
        better = runs(1, count)
        assert any(change.regressed(0.05) for change in changes(better, worse))
        assert not any(change.regressed(0.05) for change in changes(worse, better))


def test_a_single_short_run_shows_no_regression() -> None:
    """Eight seconds of one run are too few to estimate noise."""
    short = [replace(run, timeline=run.timeline[:8]) for run in runs(1, 1)]
    slow = [replace(run, timeline=run.timeline[:8]) for run in runs(2, 1, p99_ms=100)]
    assert not any(change.regressed(0.1) for change in changes(short, slow))


def test_failures_are_compared_with_chance() -> None:
    """Three failures more in 900 requests are not a regression; 90 are."""

    def failing(count: int) -> list[Result]:
        return [
            replace(run, total=replace(run.total, count=900, failures=count)) for run in runs(1, 1)
        ]

    assert [f.regressed for f in failures(failing(0), failing(3))] == [False]
    assert [f.regressed for f in failures(failing(90), failing(0))] == [False]
    assert [(f.route, f.regressed) for f in failures(failing(0), failing(90))] == [("all", True)]
    assert failures(failing(0), failing(0)) == []


def test_what_a_breakpoint_carried_is_compared() -> None:
    """Half the level in three runs of three is a regression; in a single run it may be noise."""

    def carrying(level: float, count: int) -> list[Result]:
        return [
            replace(run, breakpoint=Breakpoint(level * factor, level))
            for run, factor in zip(runs(1, count), (1.0, 1.25, 1.0), strict=False)
        ]

    for count, verdict in ((3, True), (1, False)):
        found = changes(carrying(400, count), carrying(200, count))
        (carried,) = [change for change in found if change.metric.of_what == "breakpoint"]
        assert carried.regressed(0.1) == verdict
        assert carried.is_unknown != verdict


def carrying(*levels: float | None) -> list[Result]:
    """Runs of `breakpoint` that carried these levels."""
    return [
        replace(run, breakpoint=Breakpoint(level, level))
        for run, level in zip(runs(1, len(levels)), levels, strict=True)
    ]


@pytest.mark.parametrize("after", [(None, None, None), (None, 400.0, None), (400.0, None, 400.0)])
def test_a_missing_value_is_a_regression(after: tuple[float | None, ...]) -> None:
    """If a run carried no level, no mean is computed, and only a rise of such runs is a regression."""
    before = carrying(400.0, 400.0, 400.0)
    (gone,) = missing(before, carrying(*after))
    assert (gone.metric.of_what, gone.regressed) == ("breakpoint", True)
    assert not any(c.metric.of_what == "breakpoint" for c in changes(before, carrying(*after)))
    (come,) = missing(carrying(*after), before)
    assert not come.regressed
    assert not any(same.regressed for same in missing(carrying(*after), carrying(*after)))
    assert missing(before, before) == missing(runs(1, 3), runs(2, 3)) == []


def test_a_missing_route_or_lag_is_a_regression() -> None:
    """A route had no requests, no sample came within the patience, or no request was answered."""
    before, never = runs(1, 3), Spread(0, None, None, None, None, missed=300)
    row = before[0].requests[0]
    nothing = replace(row, name="all", count=0, rate=0.0, p50_ms=None, p95_ms=None, p99_ms=None)
    for after, of_what, gone in (
        ([replace(run, requests=[]) for run in before], "GET /x", 3),
        (
            [replace(run, lag_ms=replace(run.lag_ms, searchable=never)) for run in before],
            "searchable",
            3,
        ),
        (
            [replace(run, lag_ms=replace(run.lag_ms, delivered=None)) for run in before],
            "delivered",
            3,
        ),
        (
            [replace(run, lag_ms=replace(run.lag_ms, delivered=never)) for run in before],
            "delivered",
            3,
        ),
        ([replace(run, total=nothing) for run in before], "all", 4),
    ):
        found = [m for m in missing(before, after) if m.metric.of_what != "servers"]
        assert [(of_what in m.metric.of_what, m.regressed) for m in found] == [(True, True)] * gone
    without = [replace(run, lag_ms=replace(run.lag_ms, delivered=None)) for run in before]
    assert missing(without, without) == []
    assert len(changes(without, without)) == len(changes(before, before)) - 3
    appeared = [replace(run, requests=[row, replace(row, name="GET /y")]) for run in before]
    assert [m.regressed for m in missing(before, appeared)] == [False] * 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"planned_s": 30.0}, "seconds: 60.0, 30.0"),
        ({"planned_s": None}, "seconds: 60.0, none"),
        ({"chats": 1}, "chats: 64, 1"),
        ({"interrupted": True}, "length: 1 of 2 runs after interrupted"),
        (
            {"breakpoint": Breakpoint(None, None, [], 50.0, 0.01)},
            "limits of a step: p99 ≤ 100 ms, failed ≤ 1.00%, p99 ≤ 50 ms, failed ≤ 1.00%",
        ),
    ],
)
def test_runs_of_different_loads_are_reported(asked: dict[str, Any], said: str) -> None:
    """Interrupted runs are reported, too. Another seed is the same load; the output only mentions it."""
    bars = Breakpoint(400.0, 400.0, [], 100.0, 0.01)
    run = replace(RESULT, planned_s=60.0, chats=64, breakpoint=bars)
    assert differing_options([run], [run, replace(run, seed=7)]) == []
    assert differing_options([run], [run, replace(run, **asked)]) == [said]
    assert "- differs: seed: 1; then 7" in markdown([run], [replace(run, seed=7)], 0.1)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, list[Result]], Path]:
    """Writes results to a file, one per line."""

    def write(name: str, results: list[Result]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join(map(dumps, results)))
        return path

    return write


def test_the_command_prints_a_table_and_decides(
    written: Callable[[str, list[Result]], Path],
) -> None:
    """The command of the docs: 0 for equal runs, 4 for a regression or a fault, 2 for different loads."""
    ((_, *words),) = commands("compare")
    assert words[:2] == ["bench", "compare"]
    before, options = written("before.json", runs(1, 3)), [*words[4:], "-o", "markdown"]

    def compare(after: list[Result]) -> tuple[int, str, str]:
        return run_bench("compare", before, written("after.json", after), *options)

    code, out, _ = compare(runs(1, 3))
    assert code == 0
    lags = ("answer to stored", "answer to searchable", "answer to delivered")
    for of_what in ("GET /x", "all", *lags):
        for metric in ("p50 ms", "p95 ms", "p99 ms"):
            assert re.search(rf"\| {of_what} \| {metric} \| .* \| \+0\.0% \| .* \| noise \|", out)
    code, out, err = compare(runs(2, 3, p99_ms=90.0))
    assert (code, "**regression**" in out) == (4, True)
    assert "worse than before: p99 ms of GET /x" in err
    code, _, err = compare([replace(run, audit=Audit(lost=1)) for run in runs(1, 3)])
    assert (code, "3 faults found by the audit" in err) == (4, True)
    code, _, err = compare(
        [replace(run, total=replace(run.total, failures=300)) for run in runs(1, 3)]
    )
    assert (code, "worse than before: failures of all" in err) == (4, True)
    never = Spread(0, None, None, None, None, missed=300)
    code, out, err = compare(
        [replace(run, lag_ms=replace(run.lag_ms, stored=never)) for run in runs(1, 3)]
    )
    assert code == 4
    assert re.search(
        r"\| answer to stored \| p50 ms \| [0-9.]+ \| missing \| .*\*\*regression", out
    )
    assert "worse than before: no p50 ms of answer to stored any more" in err
    code, out, _ = run_bench("compare", before, written("after.json", runs(2, 3, p99_ms=90.0)))
    lines = [json.loads(line) for line in out.splitlines()]
    regressions = {(row["of"], row["metric"]) for row in lines if row["verdict"] == "regression"}
    assert (code, ("GET /x", "p99 ms") in regressions) == (4, True)
    code, out, err = compare([replace(run, rate=1.0) for run in runs(1, 3)])
    assert (code, out) == (2, "")
    assert "these runs differ in rate: 90.0, 1.0" in err
    options = ["--force", "-o", "markdown"]
    code, out, _ = compare([replace(run, rate=1.0) for run in runs(1, 3)])
    assert code == 0
    assert "**These runs differ** in rate: 90.0, 1.0." in out
    busy = [f"others used {share} of the processors" for share in (0.1, 0.12, 0.3)]
    code, out, _ = compare(
        [
            replace(run, facts={"processor": "slow"}, warnings=[warning])
            for run, warning in zip(runs(1, 3), busy, strict=True)
        ]
    )
    assert f"- after, a warning of 3 runs, such as: {busy[0]}\n" in out
    assert "- differs: processor: unknown; then slow" in out
