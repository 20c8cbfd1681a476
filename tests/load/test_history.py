"""`bench history`: finds where a value has changed, and only there."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from loadtest.report.history import COMMITTED, MIN_RUNS, change_points, history
from loadtest.report.history_plot import draw
from loadtest.report.result import Result, dumps
from tests.load.conftest import run_bench
from tests.load.test_docs import commands
from tests.load.test_parts import RESULT, ROW


def values(seed: int, *parts: tuple[int, float]) -> list[float]:
    """Values that vary by a twentieth: for each part, how many and about which one."""
    rng = Random(seed)
    return [mean * rng.lognormvariate(0, 0.05) for count, mean in parts for _ in range(count)]


def runs(p99s: Sequence[float]) -> list[Result]:
    """A run an hour, each of a commit of its own, named by its place."""
    return [
        replace(
            RESULT,
            started_at=f"2026-11-{1 + hour // 24:02}T{hour % 24:02}:00:00Z",
            total=replace(ROW, p99_ms=p99),
            facts={"InstaChat": f"commit {hour:012}"},
        )
        for hour, p99 in enumerate(p99s)
    ]


def test_noise_has_no_change_points() -> None:
    """Of twenty histories without a change, at most one has a change point."""
    assert sum(bool(change_points(values(seed, (20, 100)))) for seed in range(20)) <= 1


def test_a_change_is_found_where_it_happened() -> None:
    """A sixth, of values that vary by a twentieth: in nine of ten histories, within two runs."""
    found = [change_points(values(seed, (10, 100), (10, 116))) for seed in range(10)]
    assert sum(len(points) == 1 and abs(points[0] - 10) <= 2 for points in found) >= 9


def test_several_changes_are_found() -> None:
    """Up, and down again."""
    assert change_points(values(3, (20, 100), (20, 130), (20, 90))) == pytest.approx(
        [20, 40], abs=1
    )


@pytest.mark.parametrize("count", range(2 * MIN_RUNS))
def test_too_few_runs_have_none(count: int) -> None:
    """Each side needs three."""
    assert change_points([*[1.0] * (count // 2), *[9.0] * (count - count // 2)]) == []


def test_loads_are_apart_and_interrupted_runs_are_left_out() -> None:
    """Runs with another rate are another series. The runs are ordered by their time, not by the list."""
    slow, fast = runs(values(1, (6, 50), (6, 80))), runs(values(2, (12, 5)))
    other = [replace(run, rate=1_000.0) for run in fast]
    broken = [replace(run, total=replace(ROW, p99_ms=9_999.0), interrupted=True) for run in slow]
    found = history([*reversed(slow), *broken, *other])
    assert len({series.load for series in found}) == 2
    points = [point for series in found for point in series.change_points]
    assert [(point.metric, point.is_worse) for point in points] == [("p99 ms", True)]
    assert points[0].result.facts["InstaChat"] == "commit 000000000006"
    assert points[0].change == pytest.approx(0.6, abs=0.1)


def test_the_command_reads_a_folder_and_draws(tmp_path: Path) -> None:
    """Results in files of one and of several runs, in any folder below; other files are named."""
    made = runs(values(1, (8, 50), (8, 35)))
    (tmp_path / "below").mkdir()
    (tmp_path / "first.jsonl").write_text("".join(dumps(run) + "\n" for run in made[:9]))
    for place, run in enumerate(made[9:]):
        (tmp_path / "below" / f"{place}.json").write_text(dumps(run))
    (tmp_path / "package.json").write_text(json.dumps({"name": "x"}))
    ((_, _, *words),) = commands("history")  # as the page says, on this folder
    plot = tmp_path / "history.svg"
    places = {"build/results": tmp_path, "build/history.svg": plot}
    found = run_bench(*(places.get(word, word) for word in words))
    assert found.code == 0, found.err
    (point,) = [json.loads(line) for line in found.out.splitlines()]
    assert (point["metric"], point["commit"], point["verdict"]) == (
        *("p99 ms", "000000000008", "better"),
    )
    assert "16 runs of 1 load" in found.err
    assert "package.json is not the result of a run" in found.err
    drawn = plot.read_text()
    assert "-3" in drawn  # by about three in ten, with the commit
    assert "000000000008" in drawn


def test_runs_of_commits_are_ordered_and_drawn_by_commit(tmp_path: Path) -> None:
    """Commits whose time is known come in that order, though their runs took turns."""
    measured = [
        replace(run, facts={"InstaChat": f"commit {name}", COMMITTED: made})
        for run in runs([50.0] * 8)
        for name, made in (("b" * 12, "2026-10-02T00:00:00Z"), ("a" * 12, "2026-10-01T00:00:00Z"))
    ]
    (series, *_) = found = history(measured)
    commits = [run.facts["InstaChat"][-1] for run in series.results]
    assert commits == ["a"] * 8 + ["b"] * 8
    plot = tmp_path / "history.svg"
    draw(found, plot)
    assert "a" * 7 in plot.read_text()
    draw(history(runs([50.0] * 8)), plot)
    assert "0000000" not in plot.read_text()  # one run each: there is no room for names


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    """Exit 2, and what to do."""
    for folder, options, said in (
        (tmp_path, [], "contains no result"),
        (tmp_path / "none", [], "is not a folder"),
        (tmp_path, ["--plot", "x.gif"], "its name ends with .png or .svg"),
    ):
        found = run_bench("history", folder, *options)
        assert (found.code, found.out) == (2, "")
        assert said in found.err
