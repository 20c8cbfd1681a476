"""The tool that counts false alarms of `bench compare`: its drawing and counting, on simulated runs."""

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from loadtest.report.result import Audit
from tests.load.test_compare import turns
from tools import measure_alarms
from tools.markdown_section import read_section
from tools.measure_alarms import (
    COMPARISONS,
    ROUNDS,
    SECTION,
    Round,
    draw,
    is_blamed,
    main,
    raised,
    summary,
)


@pytest.fixture
def pool() -> list[Round]:
    """Rounds of two equal builds, and of one slower by a tenth."""
    one, other = turns(1, 1.0, rounds=20)
    slowed = [
        replace(result, started_at=result.started_at.replace(":00Z", ":30Z"))
        for result in turns(1, 1.1, rounds=20)[1]
    ]
    return [Round(*results) for results in zip(one, other, slowed, strict=True)]


@pytest.mark.parametrize("slowed", [False, True])
def test_no_run_is_on_both_sides(pool: list[Round], slowed: bool) -> None:
    """Twenty rounds have a run on either side, in random order; the slowed ones are all after."""
    rng = Random(1)
    sides = [draw(pool, rng, slowed=slowed) for _ in range(COMPARISONS)]
    for before, after in sides:
        assert len(before) == len(after) == ROUNDS
        ids = [id(result) for result in (*before, *after)]
        assert len(set(ids)) == len(ids)
        rounds = [{id(result) for result in each} for each in pool]
        pairs = zip(before, after, strict=True)
        assert all(any({id(x), id(y)} <= each for each in rounds) for x, y in pairs)
        assert ({id(each.slowed) for each in pool} >= {id(result) for result in after}) == slowed
    first = {id(each.one) for each in pool}
    assert {id(before[0]) in first for before, _ in sides} == {True, False}


def test_alarms_are_counted(pool: list[Round]) -> None:
    """Few for equal builds, most for the slowed one; a fault of the audit is one, too."""
    text = summary(pool).replace("\n", " ")
    (equal,) = re.findall(r"of 40 comparisons of equal builds (\d+) blamed a change", text)
    (slowed,) = re.findall(r"before each request (\d+) did, by the ranks of .* took turns", text)
    (longer,) = re.findall(r"raised by a tenth (\d+) did", text)
    assert int(equal) <= 4
    assert int(longer) >= 0.9 * COMPARISONS
    assert int(slowed) >= 0.9 * COMPARISONS
    assert "in 20 rounds" in text
    assert "draws 20 of the rounds" in text
    assert re.search(r"against the slowed one, .* \(\+\d\d", text)
    before, after = draw(pool, Random(1), slowed=False)
    lost = [replace(after[0], audit=Audit(lost=1)), *after[1:]]
    assert is_blamed((before, lost))


def test_all_times_after_are_raised_by_a_tenth(pool: list[Round]) -> None:
    """Of all requests, of each route, and until they are stored; neither counts nor the other side."""
    (before, after), (same, longer) = (sides := draw(pool, Random(1), slowed=False)), raised(sides)
    assert same == before
    for old, new in zip(after, longer, strict=True):
        assert new.total.p50_ms == pytest.approx(1.1 * (old.total.p50_ms or 0))
        assert [row.p50_ms for row in new.requests] == [
            pytest.approx(1.1 * (row.p50_ms or 0)) for row in old.requests
        ]
        assert (new.total.count, new.rate) == (old.total.count, old.rate)


def test_a_kept_pool_is_drawn_from_again(
    pool: list[Round],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is measured then."""
    monkeypatch.setattr(measure_alarms, "measure", lambda *_: iter(pool))
    file = tmp_path / "build" / "pool.jsonl"
    monkeypatch.setattr("sys.argv", ["measure_alarms", "--pool", str(file)])
    main()
    said = capsys.readouterr().out
    monkeypatch.delattr(measure_alarms, "measure")
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {SECTION}: begin -->\n<!-- {SECTION}: end -->\n")
    monkeypatch.setattr("sys.argv", ["measure_alarms", "--pool", str(file), "--page", str(page)])
    main()
    assert capsys.readouterr().out == said
    assert read_section(page, SECTION) == said.strip()
