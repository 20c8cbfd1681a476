"""The start of the command line, against importing the two libraries that it is built on."""

import re
import subprocess
import sys
from collections.abc import Iterator

from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import PROFILE_LINES, Goal, Row, Side, run_pairs

HELP = ("-m", "instachat_cli", "--help")
LIBRARIES = ("-c", "import typer, rich")
GOAL = Goal(must=1.5, at_most=True)


def measure(env: Environment) -> Iterator[Row]:
    """Run `instachat --help`."""
    yield run_pairs(
        "start of the command line",
        "a new process each, files cached",
        Side("instachat --help", lambda: _run_python(*HELP), explain=_imports),
        Side("import typer, rich", lambda: _run_python(*LIBRARIES)),
        pairs=env.scale.startup_pairs,
        goal=GOAL,
    )


def _run_python(*arguments: str) -> str:
    """Run Python; returns its standard error."""
    done = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stderr


def _imports() -> str:
    """The modules that take longest to import, each without its own imports."""
    output = _run_python("-X", "importtime", *HELP)
    found = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", output, re.MULTILINE)
    slowest = sorted(((int(own), name) for own, name in found), reverse=True)
    lines = [f"{own / 1000:8.1f}  {name}" for own, name in slowest[:PROFILE_LINES]]
    return "\n".join(["      ms  import", *lines])
