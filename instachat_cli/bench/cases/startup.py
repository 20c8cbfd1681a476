"""The command line's start, against importing the two libraries that it is made of."""

import re
import subprocess
import sys
from collections.abc import Iterator

from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.paired_run import PROFILE_LINES, Goal, Row, Side, duel

HELP = ("-m", "instachat_cli", "--help")
LIBRARIES = ("-c", "import typer, rich")
GOAL = Goal(must=1.5, at_most=True)


def measure(ground: Ground) -> Iterator[Row]:
    """`instachat --help`."""
    yield duel(
        "start of the command line",
        "a new process each, files cached",
        Side("instachat --help", lambda: _python(*HELP), explain=_imports),
        Side("import typer, rich", lambda: _python(*LIBRARIES)),
        pairs=ground.scale.starts,
        goal=GOAL,
    )


def _python(*arguments: str) -> str:
    """Run Python; returns what it said on standard error."""
    done = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stderr


def _imports() -> str:
    """The modules that take longest to import, each without what it imports in turn."""
    said = _python("-X", "importtime", *HELP)
    found = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", said, re.MULTILINE)
    slowest = sorted(((int(own), name) for own, name in found), reverse=True)
    lines = [f"{own / 1000:8.1f}  {name}" for own, name in slowest[:PROFILE_LINES]]
    return "\n".join(["      ms  import", *lines])
