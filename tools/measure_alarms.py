"""Counts on real runs how often `bench compare` blames equal builds, and finds one slower by a tenth.

Three private installations run beside each other and are loaded in turns: two of this program, and one in
which each request also keeps a processor busy for a tenth of the p50. Comparisons are then drawn from this
pool. Each takes twenty of the rounds, and of each of them one run for either side: which of the two equal
runs is the one before is random. So no run is on both sides of a comparison, and each has another pattern of
before and after; but comparisons share runs. Besides, each comparison of equal builds is made once more with
all times after raised by a tenth.

    .venv/bin/python -m tools.measure_alarms --pool build/alarms.jsonl [--page docs/loadtest.md]

The pool is kept in that file. If it exists, nothing is measured, and the comparisons are drawn from it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import Any, Final, NamedTuple

from instachat_cli.bench.harness.machine import machine
from loadtest.errors import CouldNotRun
from loadtest.report.compare import REGRESSION, changes, method, rows
from loadtest.report.metrics import ALL
from loadtest.report.result import Result, dumps, loads
from loadtest.run.choices import Profile, Scenario
from loadtest.run.commits import SourceTree
from loadtest.run.installation import PACKAGES
from loadtest.run.plan import plan
from loadtest.run.runner import RunOptions
from loadtest.run.turns import rounds_in_turns
from tools.markdown_section import replace_section
from tools.slowed_tree import copy_tree, slow_down

SECTION: Final = "alarms"
LINE: Final = 125  # characters of a line of the page
LOAD_RATE: Final = 100.0
SLOWDOWN: Final = 0.1  # of the p50
COMPARISONS: Final = 40
ROUNDS: Final = 20  # of a comparison
TOLERANCE: Final = 0.05
CALIBRATION_ROUNDS: Final = 2
NAMES: Final = ("one", "other", "slowed")


class Round(NamedTuple):
    """A run of each installation: two of equal builds, and the slowed one."""

    one: Result
    other: Result
    slowed: Result


Sides = tuple[list[Result], list[Result]]


def measure(rounds: int, seconds: float) -> Iterator[Round]:
    """Load the three installations in turns; each round once it has ended. Raises CouldNotRun."""
    load = plan(Scenario.MIXED, Profile.SMOKE, 1, rate=LOAD_RATE, seconds=seconds)
    options = RunOptions(load, max_errors=None, facts=machine())
    this = SourceTree(PACKAGES)
    first = list(rounds_in_turns(options, [this], ["calibration"], CALIBRATION_ROUNDS, _say))
    p50_ms = median(result.total.p50_ms or 0.0 for (result,) in first)
    with TemporaryDirectory(prefix="instachat-load-tree-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root runs the engines as another user
        copy_tree(folder)
        slow_down(folder, SLOWDOWN * p50_ms / 1_000)
        trees = [this, this, SourceTree(folder, "slowed")]
        for results in rounds_in_turns(options, trees, NAMES, rounds, _say):
            yield Round(*results)


def draw(pool: Sequence[Round], rng: Random, *, slowed: bool) -> Sides:
    """Two sides of ROUNDS runs, or of all that there are: equal builds, or the slowed one after."""
    sides: Sides = ([], [])
    for chosen in rng.sample(pool, min(ROUNDS, len(pool))):
        before, after = rng.sample((chosen.one, chosen.other), 2)
        sides[0].append(before)
        sides[1].append(chosen.slowed if slowed else after)
    return sides


def raised(sides: Sides) -> Sides:
    """The same comparison with all times after longer by SLOWDOWN."""

    def longer(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            in_ms = name.endswith("_ms")
            return {key: longer(each, name if in_ms else key) for key, each in value.items()}
        if isinstance(value, list):
            return [longer(each, name) for each in value]
        is_time = isinstance(value, float) and name.endswith("_ms")
        return value * (1 + SLOWDOWN) if is_time else value

    before, after = sides
    return before, [loads(json.dumps(longer(json.loads(dumps(result))))) for result in after]


def is_blamed(sides: Sides) -> bool:
    """Whether `bench compare` would exit with 4."""
    old, new = sides
    faults = any(result.audit.faults for result in new)
    return faults or any(row.verdict == REGRESSION for row in rows(old, new, TOLERANCE))


def summary(pool: Sequence[Round]) -> str:
    """What was found, as a paragraph of Markdown."""
    rng = Random("alarms")
    equal, slowed = (
        [draw(pool, rng, slowed=is_slowed) for _ in range(COMPARISONS)]
        for is_slowed in (False, True)
    )
    one, other, slowed_runs = (list(runs) for runs in zip(*pool, strict=True))
    first = one[0]
    names = (name for name in ("processor", "memory", "Python") if name in first.facts)
    on = ", ".join(first.facts[name] for name in names)
    blamed = sum(map(is_blamed, equal))
    found, found_slowed = (
        sum(is_blamed(raised(sides)) for sides in equal),
        sum(map(is_blamed, slowed)),
    )
    text = (
        f"On real runs of {first.started_at[:10]} ({on}), of {COMPARISONS} comparisons of equal builds"
        f" {blamed} blamed a change, of {COMPARISONS} with all times after raised by a tenth {found} did, and"
        f" of {COMPARISONS} with a server that keeps a processor busy for a tenth of the p50 before each"
        f" request {found_slowed} did, by {method(*equal[0])}. They are not {3 * COMPARISONS} measurements."
        f" `python -m tools.measure_alarms`"
        f" loaded three private installations, two equal ones and the slowed one, in {len(pool)} rounds of"
        f" {first.duration_s:g} s, {first.rate or 0:g} requests a second. Each comparison draws"
        f" {len(equal[0][0])} of the rounds, and which of the two equal runs is the one before: no run is on"
        f" both sides, but comparisons share runs. All rounds at once: one equal installation against the"
        f" other, {_change(one, other)}; against the slowed one, {_change(one, slowed_runs)}."
    )
    return "\n".join(wrap(text, LINE, break_on_hyphens=False, break_long_words=False))


def _change(old: Sequence[Result], new: Sequence[Result]) -> str:
    """How the median of all requests has changed, in words."""
    found = changes(old, new)
    p50 = next(c for c in found if (c.metric.of_what, c.metric.name) == (ALL, "p50 ms"))
    named = [f"{c.metric.name} of {c.metric.of_what}" for c in found if c.regressed(TOLERANCE)]
    interval = f"between {p50.low - 1:+.0%} and {p50.high - 1:+.0%}"
    return (
        f"the p50 of all requests {p50.old:.2f} and {p50.new:.2f} ms ({p50.ratio - 1:+.1%}, {interval}),"
        f" with {len(named) or 'no'} regression{'s' * (len(named) != 1)} of {len(found)} values"
    )


def _read(path: Path) -> list[Round]:
    results = list(map(loads, path.read_text(encoding="utf-8").splitlines()))
    return [Round(*three) for three in zip(results[::3], results[1::3], results[2::3], strict=True)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure the pool unless it is there, and print what comparisons of it say."""
    parser = argparse.ArgumentParser(description="Counts the false alarms of `bench compare`.")
    parser.add_argument("--pool", type=Path, required=True, help="the results, one a line")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--page", type=Path, help="write the section of this page")
    given = parser.parse_args()
    if not given.pool.exists():
        given.pool.parent.mkdir(parents=True, exist_ok=True)
        try:
            with given.pool.open("x", encoding="utf-8") as file:
                for each in measure(given.rounds, given.seconds):
                    file.write("".join(dumps(result) + "\n" for result in each))
        except CouldNotRun as error:
            raise SystemExit(str(error)) from None
    text = summary(_read(given.pool))
    if given.page:
        replace_section(given.page, SECTION, text)
    print(text)


if __name__ == "__main__":
    main()
