"""How tests share two processes: a small suite of its own, whose tests note when they ran, and where."""

import os
import subprocess
import sys
from itertools import pairwise
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
    since = time.monotonic()
    time.sleep(0.05)
    with Path("noted").open("a") as file:
        file.write(f"{since} {time.monotonic()} {kind} {os.getpid()}\\n")

@pytest.mark.alone
@pytest.mark.parametrize("n", range(3))
def test_alone(n): note("alone")

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


def test_exclusive_tests_run_alone_and_groups_share_a_process(tmp_path: Path) -> None:
    """Two run at once, but none beside one that is alone; and each group is in one process."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_suite.py").write_text(SUITE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"),
            *("--basetemp", tmp_path / "temporary", "--rootdir", tmp_path),
        ],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1].startswith("="), done.stdout + done.stderr
    assert "21 passed" in done.stdout.splitlines()[-1]
    noted = [line.split() for line in (tmp_path / "noted").read_text().splitlines()]
    spans = sorted((float(since), float(until), kind) for since, until, kind, _ in noted)
    meanwhile = [{a[2], b[2]} for a, b in pairwise(spans) if b[0] < a[1]]
    assert meanwhile
    assert not [kinds for kinds in meanwhile if "alone" in kinds]
    for group in ("alone", "grouped", "shared"):
        assert len({process for _, _, kind, process in noted if kind == group}) == 1
