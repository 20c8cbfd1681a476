"""Two versions of the program beside each other, loaded in turns.

Whatever slows the machine down for a while then slows both. Each round has the same load for both sides.
Which side begins a round is random: then chance alone gives a side the better moments, whatever the machine
does, and the test by random labels (`loadtest.report.significance`) is exact.
"""

from collections.abc import Callable, Sequence
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
    """Run the load `rounds` times on a private installation of each tree, before and after.

    With a preload, both have the same messages before. A first round warms them up and is not counted.
    Ctrl-C ends the load under way and leaves out its round.
    Raises CouldNotRun if an installation does not start, or a load can't be made.
    """
    turns = Turns()
    with ExitStack() as stack:
        sides = []
        for name, tree in zip(NAMES, trees, strict=True):
            on_progress(f"starting {name}: {tree.commit or 'this program'}")
            sides.append(stack.enter_context(private_installation(tree.folder)))
            if options.preload:
                sides[-1].import_messages(options.preload, options.plan.seed)
        for turn in range(rounds + 1):
            plan = replace(options.plan, seed=options.plan.seed + turn)
            found: dict[int, Result] = {}
            for side in _random.sample((0, 1), 2):
                commit = trees[side].commit
                facts = options.facts | ({"InstaChat": f"commit {commit}"} if commit else {})
                one = replace(options, plan=plan, facts=facts)
                found[side] = run_load(one, lambda _: None, sides[side])
                if found[side].interrupted:
                    turns.interrupted = True
                    return turns
            if turn:
                turns.before.append(found[0])
                turns.after.append(found[1])
            on_progress(_line(turn, rounds, found))
    return turns


def _line(turn: int, rounds: int, found: dict[int, Result]) -> str:
    name = f"round {turn} of {rounds}" if turn else "warm-up"
    p50s = (
        f"{NAMES[side]} {'-' if (p50 := found[side].total.p50_ms) is None else f'{p50:.2f} ms'}"
        for side in (0, 1)
    )
    return f"{name:<14} p50 {', '.join(p50s)}"
