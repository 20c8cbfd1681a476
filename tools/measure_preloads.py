"""Measures HTTP on installations that have 0, 100,000 and 1,000,000 messages; `make preload` runs it.

The private installations run beside each other and are loaded in turns, in random order, so that whatever
slows the machine down for a while slows all of them. A figure is the median of the rounds.

    .venv/bin/python -m tools.measure_preloads [--page docs/performance.md]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom
from statistics import median
from typing import Final, NamedTuple

from instachat_cli.bench.harness.machine import machine
from loadtest.report.metrics import COST, MEMORY, lag_metrics, route_metrics
from loadtest.report.result import Result
from loadtest.run.choices import Profile, Scenario
from loadtest.run.counts import parse_count
from loadtest.run.installation import private_installation
from loadtest.run.plan import plan
from loadtest.run.runner import RunOptions, run_load
from tools.markdown_section import replace_section

SECTION: Final = "preload"
SIZES: Final = ("0", "100k", "1m")
RATE: Final = 100.0
MESSAGES: Final = "/applications/{token}/chats/{chat}/messages"

Values = Callable[[Result], float | None]


class Row(NamedTuple):
    """A row of the table: what is measured in which scenario, and its values."""

    title: str
    scenario: Scenario
    values: tuple[Values, ...]


def _requests(title: str, scenario: Scenario, route: str) -> Row:
    percentiles = route_metrics(route)
    return Row(title, scenario, (percentiles[50].of, percentiles[95].of))


def _lag(title: str, until: str) -> Row:
    percentiles = lag_metrics(until)
    return Row(title, Scenario.MIXED, (percentiles[50].of, percentiles[95].of))


ROWS: Final = (
    _requests("send a message, ms", Scenario.MIXED, f"POST {MESSAGES}"),
    _requests("a page of a chat, ms", Scenario.MIXED, f"GET {MESSAGES}"),
    _requests("the newest page, ms", Scenario.READ_HEAVY, f"GET {MESSAGES}?order=desc"),
    _requests("search a chat, ms", Scenario.MIXED, f"GET {MESSAGES}?keyword"),
    _requests("edit a message, ms", Scenario.MIXED, f"PATCH {MESSAGES}/{{number}}"),
    _requests("delete a message, ms", Scenario.MIXED, f"DELETE {MESSAGES}/{{number}}"),
    _lag("answer to stored, ms", "stored"),
    _lag("answer to searchable, ms", "searchable"),
    Row("processor time for each request of `mixed`, ms", Scenario.MIXED, (COST.of,)),
    Row("processor time for each request of `read-heavy`, ms", Scenario.READ_HEAVY, (COST.of,)),
    Row("memory, MB", Scenario.READ_HEAVY, (MEMORY.of,)),
)
SCENARIOS: Final = tuple(dict.fromkeys(row.scenario for row in ROWS))


class Measured(NamedTuple):
    """The results of an installation, and how many seconds its import took."""

    messages: int
    import_seconds: float
    results: list[Result]


def measure(sizes: Sequence[int], rounds: int, seconds: float) -> list[Measured]:
    """Load an installation of each size with each scenario, in each round."""
    with ExitStack() as stack:
        sides, measured = [], []
        for size in sizes:
            sides.append(stack.enter_context(private_installation()))
            since = time.monotonic()
            if size:
                sides[-1].import_messages(size, seed=1)
            measured.append(Measured(size, time.monotonic() - since, []))
            print(f"imported {size:,} messages", file=sys.stderr)
        for turn in range(rounds + 1):
            for scenario in SCENARIOS:
                for place in SystemRandom().sample(range(len(sides)), len(sides)):
                    load = plan(scenario, Profile.SMOKE, turn + 1, rate=RATE, seconds=seconds)
                    options = RunOptions(load, max_errors=None, facts=machine())
                    result = run_load(options, lambda _: None, sides[place])
                    if result.interrupted:
                        raise KeyboardInterrupt
                    if faults := result.audit.faults:
                        raise SystemExit(f"the audit has found {faults}")
                    if turn:  # the first round warms them up
                        measured[place].results.append(result)
            print(f"round {turn} of {rounds}", file=sys.stderr)
    return measured


def section(measured: Sequence[Measured]) -> str:
    """The section of the page, as Markdown."""
    return "\n".join(_lines(measured))


def _lines(measured: Sequence[Measured]) -> Iterator[str]:
    results = [result for one in measured for result in one.results]
    rounds = len(measured[0].results) // len(SCENARIOS)
    yield "## HTTP on a full installation"
    yield ""
    yield (
        f"`make preload` writes this section. Medians of {rounds} runs of {results[0].duration_s:g} s,"
        f" {RATE:g} requests a second, by turns on private installations that had so many messages before"
        " (`bench run --preload`); p50, then p95. Durability is `strict`; PostgreSQL searches. Pages and"
        " searches draw from all chats."
    )
    yield ""
    yield f"| | {' | '.join(f'{one.messages:,} messages' for one in measured)} |"
    yield f"| --- |{' ---: |' * len(measured)}"
    for row in ROWS:
        yield f"| {row.title} | {' | '.join(_cell(row, one) for one in measured)} |"
    imports = (f"{one.import_seconds:.0f}" if one.messages else "" for one in measured)
    yield f"| import, s | {' | '.join(imports)} |"
    yield ""
    facts = results[0].facts
    names = ("InstaChat", "processor", "memory", "Python")
    yield "Measured with " + "; ".join(facts[name] for name in names if name in facts) + "."


def _cell(row: Row, one: Measured) -> str:
    runs = [result for result in one.results if result.scenario == row.scenario]
    known = ([value for result in runs if (value := of(result))] for of in row.values)
    return " / ".join(_number(median(values)) if values else "-" for values in known)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Measure, and print the section or write it to a page."""
    parser = argparse.ArgumentParser(description="Measures HTTP on full installations.")
    parser.add_argument("--page", type=Path, help="write the section of this page")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--sizes", default=",".join(SIZES))
    given = parser.parse_args()
    sizes = [parse_count(size) for size in given.sizes.split(",")]
    text = section(measure(sizes, given.rounds, given.seconds))
    if given.page:
        replace_section(given.page, SECTION, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
