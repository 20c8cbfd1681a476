"""Versions of the program beside each other, loaded in turns.

Whatever slows the machine down for a while then slows all of them. Each round has the same load for each
side, in random order: then chance alone gives a side the better moments, whatever the machine does, and the
test by random labels (`loadtest.report.significance`) is exact.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from random import SystemRandom

from loadtest.report.result import Result
from loadtest.run.commits import SourceTree
from loadtest.run.installation import private_installation
from loadtest.run.runner import RunOptions, run_load

OnProgress = Callable[[str], object]
NAMES = ("before", "after")
_random = SystemRandom()


@dataclass
class Turns:
    """The results of both sides, of whole rounds only."""

    before: list[Result] = field(default_factory=list)
    after: list[Result] = field(default_factory=list)
    interrupted: bool = False


def run_in_turns(
    options: RunOptions, trees: Sequence[SourceTree], rounds: int, on_progress: OnProgress
) -> Turns:
    """Run the load `rounds` times on a private installation of each of two trees, before and after.

    Ctrl-C ends the load under way and leaves out its round. Raises as `rounds_in_turns`.
    """
    turns = Turns()
    for before, after in rounds_in_turns(options, trees, NAMES, rounds, on_progress):
        turns.before.append(before)
        turns.after.append(after)
    turns.interrupted = len(turns.before) < rounds
    return turns


def rounds_in_turns(
    options: RunOptions,
    trees: Sequence[SourceTree],
    names: Sequence[str],
    rounds: int,
    on_progress: OnProgress,
) -> Iterator[list[Result]]:
    """The results of each round: one for each tree, in their order; `names` are for progress.

    A private installation of each tree runs until the last round. With a preload, all have the same messages
    before. A first round warms them up and is left out. Ctrl-C ends the load under way; its round is left
    out, and is the last one. Raises CouldNotRun if an installation does not start, or a load can't be made.
    """
    with ExitStack() as stack:
        sides = []
        for name, tree in zip(names, trees, strict=True):
            on_progress(f"starting {name}: {tree.commit or 'this program'}")
            sides.append(stack.enter_context(private_installation(tree.folder)))
            if options.preload:
                sides[-1].import_messages(options.preload, options.plan.seed)
        for turn in range(rounds + 1):
            plan = replace(options.plan, seed=options.plan.seed + turn)
            found: dict[int, Result] = {}
            for side in _random.sample(range(len(sides)), len(sides)):
                commit = trees[side].commit
                facts = options.facts | ({"InstaChat": f"commit {commit}"} if commit else {})
                one = replace(options, plan=plan, facts=facts)
                found[side] = run_load(one, lambda _: None, sides[side])
                if found[side].interrupted:
                    return
            results = [found[side] for side in range(len(sides))]
            on_progress(_line(turn, rounds, names, results))
            if turn:
                yield results


def _line(turn: int, rounds: int, names: Sequence[str], results: Sequence[Result]) -> str:
    title = f"round {turn} of {rounds}" if turn else "warm-up"
    p50s = (
        f"{name} {'-' if (p50 := result.total.p50_ms) is None else f'{p50:.2f} ms'}"
        for name, result in zip(names, results, strict=True)
    )
    return f"{title:<14} p50 {', '.join(p50s)}"
