"""Runs the README: every command works as shown."""

import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import free_port, scratch_folder
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TIMEOUT = 900  # seconds; the demo takes one minute on an idle machine
pytestmark = [pytest.mark.timeout(TIMEOUT), pytest.mark.xdist_group("readme")]
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


def blocks(name: str) -> str:
    """All commands of the blocks with that mark, in order."""
    return "\n".join(body for mark, body in BLOCK.findall(README) if mark == name)


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A user's environment with an empty home folder and without addresses of engines."""
    # Also without the variables that the `make` of the tests passes to the `make` of the demo.
    ours = ("INSTACHAT_", "MAKE", "MFLAGS", "ARGS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    home = scratch_folder("readme")
    yield kept | {"INSTACHAT_HOME": str(home), "INSTACHAT_PORT": str(free_port())}
    # The engines stop after the command that used them last has ended, and still write while they stop.
    wait_until(
        lambda: (
            subprocess.run(["rm", "-rf", home], capture_output=True, check=False).returncode == 0
        )
    )


def run(script: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run the commands as a user would paste them; the first failure ends the script."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT - 60,
        check=False,  # each test checks the exit code
    )


def test_every_block_of_commands_is_run_by_a_test() -> None:
    """Each block has a mark, except the first two: the installation, and what sets a checkout up."""
    marks = [mark for mark, _ in BLOCK.findall(README)]
    assert marks[:2] == ["", ""]
    assert set(marks[2:]) == {"up", "session", "given"}


def test_the_readme_names_every_extra() -> None:
    """`make smoke` installs as the first block does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "pipx install 'instachat[engines,bench]'" in BLOCK.findall(README)[0][1]
    rows = re.findall(r"^\| `instachat\[(\w+)\]` \|", README, re.MULTILINE)
    assert set(rows) == project["optional-dependencies"].keys()


def test_the_second_block_has_targets_of_the_makefile() -> None:
    """`make test` runs this test; another test runs `make demo`."""
    targets = re.findall(r"^make (\w+)", BLOCK.findall(README)[1][1], re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)


def test_the_table_of_settings_is_complete() -> None:
    """It has exactly one row for each setting, and no others."""
    rows = re.findall(r"^\| (`INSTACHAT_.*?) \|", README, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"INSTACHAT_\w+", row)}
    assert listed == {f"INSTACHAT_{name.upper()}" for name in Settings.model_fields}


def test_make_demo_loses_nothing_and_prints_measurements(environment: dict[str, str]) -> None:
    """It leaves no home folder behind."""
    done = run("make demo", environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    assert "0 lost, 0 doubled, 0 changed" in done.stdout
    assert "Measured" in done.stdout
    assert "A short load over HTTP, and its audit" in done.stdout
    assert re.search(r"^ *0 +lost, doubled, missing or changed", done.stdout, re.MULTILINE)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "\x1b" not in done.stdout, "piped output has no colours"


def test_the_first_five_minutes(environment: dict[str, str]) -> None:
    """`up` runs in one terminal, and the commands run in another."""
    up = subprocess.Popen(
        blocks("up").strip().split(), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert up.stderr
        said = ""
        while "ready" not in said.lower():
            line = up.stderr.readline()
            assert line, said
            said += line
        done = run(blocks("session"), environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"number": 1' in done.stdout
        assert "مَرحبًا" in done.stdout
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE_SECONDS) == 0
    finally:
        up.kill()
        up.wait()


def test_your_own_engines(engines: Engines, environment: dict[str, str]) -> None:
    """The block runs with existing addresses; SIGTERM ends the worker, as an init system would do."""
    settings: Settings = engines.settings()
    script = re.sub(
        r"postgresql://instachat:secret@\S+", f"'{settings.database_url}'", blocks("given")
    )
    script = script.replace("redis://redis.example:6379/0", str(settings.redis_url))
    assert "example" not in script
    script = script.replace(".venv/bin/instachat worker", "exec .venv/bin/instachat worker")
    worker = subprocess.Popen(
        ["bash", "-euc", script], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert worker.stderr
        said = ""
        while "worker running" not in said:
            line = worker.stderr.readline()
            assert line, said
            said += line
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_SECONDS) == 0
    finally:
        worker.kill()
        worker.wait()
