"""How tests are distributed over processes: a small suite, whose tests record the process that ran them."""

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONFTEST = """
from tests.support.scheduling import SchedulingPlugin

def pytest_configure(config):
    config.pluginmanager.register(SchedulingPlugin(config))
"""
SUITE = """
import os, time
from pathlib import Path
import pytest

def note(kind):
    time.sleep(0.05)
    with Path("noted").open("a") as file:
        file.write(f"{kind} {os.getpid()}\\n")

@pytest.mark.parametrize("n", range(12))
def test_other(n): note("other")

@pytest.mark.xdist_group("a")
@pytest.mark.parametrize("n", range(3))
def test_grouped(n): note("grouped")

@pytest.fixture
def elasticsearch(): pass

@pytest.mark.usefixtures("elasticsearch")
@pytest.mark.parametrize("n", range(3))
def test_shared(n): note("shared")
"""


RANDOM = """
import random
from hypothesis import given, strategies as st

drawn = []

@given(st.integers())
def draw(number): drawn.append(number)

def test_draws():
    draw()
    print("drawn", random.random(), drawn)

def test_fails(): assert False
"""


def run(folder: Path, *options: str) -> str:
    """Run the suite in that folder; returns pytest's output."""
    (folder / "conftest.py").write_text(CONFTEST)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("--disable-plugin-autoload", "-p", "hypothesispytest"),
            *("-p", "randomly", "-p", "xdist"),
            *("--basetemp", folder / "temporary", "--rootdir", folder),
            *options,
        ],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1].startswith("="), done.stdout + done.stderr
    return done.stdout


def order(folder: Path, seed: int) -> list[str]:
    """The names of the suite's tests in the order of that seed."""
    said = run(folder, "--collect-only", "--quiet", "--no-summary", "-v", f"--randomly-seed={seed}")
    return [line.strip() for line in said.splitlines() if "<Function" in line]


def test_each_group_is_in_one_process(tmp_path: Path) -> None:
    """There are two processes."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    said = run(tmp_path, "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder")
    assert "18 passed" in said.splitlines()[-1]
    noted = [line.split() for line in (tmp_path / "noted").read_text().splitlines()]
    assert len({process for _, process in noted}) == 2
    for group in ("grouped", "shared"):
        assert len({process for kind, process in noted if kind == group}) == 1


def test_the_order_is_of_the_seed_and_groups_come_first(tmp_path: Path) -> None:
    """The same seed gives the same order, and another seed gives another order."""
    (tmp_path / "test_suite.py").write_text(SUITE)
    first, same, other = (order(tmp_path, seed) for seed in (1, 1, 2))
    assert len(first) == 18
    assert first == same != other
    for tests in (first, other):
        kinds = [name.partition("[")[0].removeprefix("<Function test_") for name in tests]
        assert [kind for kind, _ in groupby(kinds)] == ["shared", "grouped", "other"]


def test_a_failure_says_how_to_repeat_it(tmp_path: Path) -> None:
    """The seed is also used for `random` and hypothesis."""
    (tmp_path / "test_suite.py").write_text(RANDOM)
    runs = [run(tmp_path, "-rA", f"--randomly-seed={seed}") for seed in (7, 7)]
    assert "make test ARGS=--randomly-seed=7" in runs[0]
    first, same = (
        next(line for line in said.splitlines() if line.startswith("drawn")) for said in runs
    )
    assert first == same
