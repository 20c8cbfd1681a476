"""Reads the stacks that a profiler has sampled, as a bounded tree.

The profiler's text has a line for each stack: its functions from the outermost one inwards, separated by `;`,
and how often it was seen. Rare functions are left out: their samples count for the one that called them.
"""

import re
from collections import Counter

from loadtest.report.profiles import WHOLE, frames_of
from loadtest.report.result import Frame

MIN_SHARE = 0.002  # of the samples
MAX_FRAMES = 1_500
MAX_DEPTH = 100
MAX_NAME_LENGTH = 120
_LINE = re.compile(r":[0-9]+\)$")  # of a function: another one after any change of its file
# The profiler's own frame for each process; its command line may contain semicolons.
_PROCESS = re.compile(r'process [0-9]+:"[^"]*"(?:;|(?= [0-9]+$))')


def frames(text: str) -> list[Frame]:
    """The tree of all stacks of a profiler's text; the first frame is the whole. Empty without samples."""
    samples: Counter[tuple[str, ...]] = Counter()
    for line in text.splitlines():
        stack, _, count = _PROCESS.sub("", line).rpartition(" ")
        if not count.isdigit():
            continue
        names = stack.split(";")[:MAX_DEPTH] if stack else []
        path = (WHOLE, *(_LINE.sub(")", name)[:MAX_NAME_LENGTH] for name in names))
        for depth in range(len(path)):
            samples[path[: depth + 1]] += int(count)
    least = MIN_SHARE * samples[(WHOLE,)]
    # A function stands before what it called, also if both have as many samples.
    ranked = sorted(samples.items(), key=lambda item: (-item[1], len(item[0])))
    return frames_of({path: n for path, n in ranked[:MAX_FRAMES] if n and n >= least})
