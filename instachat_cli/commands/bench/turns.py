"""Measures two commits in turns, for `instachat bench compare --before REF`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.errors import Failed, Invalid
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.extras import require_bench
from instachat_cli.runtime.signals import signals_as_keyboard_interrupt
from loadtest.run.choices import Profile, Scenario

if TYPE_CHECKING:
    from loadtest.run.plan import Plan
    from loadtest.run.turns import Turns

DEFAULT_RATE = 100.0
FILES = ("before.jsonl", "after.jsonl")


def plan_turns(
    scenario: Scenario, users: int | None, rate: float | None, duration: float
) -> "Plan":
    """The plan of each load: without users and without a rate, an open one with DEFAULT_RATE."""
    require_bench("instachat bench compare --before")
    from loadtest.run.plan import plan

    if users is None and rate is None:
        rate = DEFAULT_RATE
    return plan(scenario, Profile.SMOKE, 1, users=users, rate=rate, seconds=duration)


def measure_in_turns(
    before: str | None,
    after: str | None,
    planned: "Plan",
    rounds: int,
    folder: Path | None,
    *,
    preload: int = 0,
) -> "Turns":
    """Run both commits, and write the results to the folder.

    Raises Invalid if Git knows no such commit, Failed if one can't be loaded, and Interrupted if Ctrl-C came
    before the first round had ended.
    """
    from instachat_cli.bench.harness.machine import machine
    from loadtest.errors import CouldNotRun
    from loadtest.run.commits import source_tree
    from loadtest.run.runner import RunOptions
    from loadtest.run.turns import run_in_turns

    options = RunOptions(planned, preload=preload, max_errors=None, facts=machine())
    with signals_as_keyboard_interrupt(), ExitStack() as stack:
        try:
            trees = [stack.enter_context(source_tree(ref)) for ref in (before, after)]
        except ValueError as error:
            raise Invalid(
                str(error), "run it in a checkout, and name a commit of this program"
            ) from None
        if trees[0].requirements != trees[1].requirements:
            stderr.warning("both sides run with the installed packages, but require different ones")
        try:
            turns = run_in_turns(options, trees, rounds, stderr.write_line)
        except CouldNotRun as error:
            raise Failed(str(error)) from None
    if folder:
        _write(turns, folder)
    if not turns.before:
        raise Interrupted("interrupted: no round has ended")
    return turns


def _write(turns: "Turns", folder: Path) -> None:
    from loadtest.report.result import dumps

    try:
        for name, side in zip(FILES, (turns.before, turns.after), strict=True):
            lines = (dumps(result) + "\n" for result in side)
            (folder / name).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise Failed(f"can't write the results to {folder}: {error.strerror}") from None
