"""docs/loadtest.md, run: every command in it works as shown, only shorter, and on the small server."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.choices import Scenario
from loadtest.ground import Ground
from loadtest.plan import PROFILES
from loadtest.texts import tongues
from tests.engines import free_port
from tests.load.conftest import ROOT, ended

TEXT = (ROOT / "docs" / "loadtest.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


def commands(mark: str) -> list[list[str]]:
    """The commands of the blocks with that mark, as words."""
    found = (body for name, body in BLOCK.findall(TEXT) if name == mark)
    return [shlex.split(line) for body in found for line in body.splitlines()]


def start(words: list[str], host: str, *more: object) -> "subprocess.Popen[str]":
    """Start a command of the page, with another address and what makes it shorter.

    The programs are those beside this Python: a worktree has no .venv of its own.
    """
    assert words[0].startswith(".venv/bin/")
    words = [str(Path(sys.executable).with_name(Path(words[0]).name)), *words[1:]]
    words = [host if word == "http://127.0.0.1:3000" else word for word in words]
    return subprocess.Popen(
        [*words, *map(str, more)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_bench_command_of_the_page_runs(serve: Callable[..., str], tmp_path: Path) -> None:
    """Each gives a result, with less load; on a busy machine a threshold may well be missed."""
    started = []
    for words in commands(""):
        assert words[1:3] == ["bench", "run"]
        host = serve()
        shorter = ["--duration", "4s", "--users", 5, "--chats", 2, "-o", "json"]
        model = "closed" if "--users" in words else "open"
        shorter += ["--rate", 20] if model == "open" else []
        elsewhere = ["--report", tmp_path] if "--report" in words else []
        started.append((model, start(words, host, "--host", host, *shorter, *elsewhere)))
    assert {model for model, _ in started} == {"closed", "open"}
    for model, running in started:
        run = ended(running)
        assert run.code in (0, 4), run.err
        assert run.json["model"] == model
        assert run.json["audit"]["answered"] > 0
        total, window = run.json["total"], run.json["window"]
        seconds = window["to_s"] - window["from_s"]
        assert total["rate"] == pytest.approx(total["count"] / seconds, rel=0.01)
    assert (tmp_path / "report.html").exists()


def test_the_load_comes_from_elsewhere(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two commands of a run with workers that are started by hand."""
    host, port = serve(), str(free_port())
    monkeypatch.setenv("LOCUST_MASTER_BIND_PORT", port)
    monkeypatch.setenv("LOCUST_MASTER_NODE_PORT", port)
    first, worker = commands("workers")
    run = start(first, host, "--duration", "4s", "--rate", 40, "--chats", 4, "-o", "json")
    workers = [start(worker, host) for _ in range(2)]
    done = ended(run)
    assert done.code == 0, done.err
    assert done.json["processes"] == 2
    assert done.json["audit"]["answered"] == done.json["audit"]["stored"] > 0
    assert [ended(worker).code for worker in workers] == [0, 0]


def test_locust_runs_alone(serve: Callable[..., str]) -> None:
    """The command of the page, for a second."""
    (words,) = commands("alone")
    run = start(words, serve(), "--run-time", "4s", "--rate", 20, "--chats", 4)
    done = ended(run)
    assert done.code == 0, done.err
    assert "Aggregated" in done.err


def test_the_mix_of_the_page_is_the_mix_that_is_sent() -> None:
    """Every share in the table, by Locust's own account of the scenario."""
    told = {
        scenario: start(
            [".venv/bin/locust", "-f", f"loadtest/{scenario.replace('-', '_')}.py"],
            "",
            "--show-task-ratio-json",
        )
        for scenario in Scenario
    }
    for scenario, telling in told.items():
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{scenario}`")]
        shares = sorted(int(share) for share in re.findall(r"([0-9]+) %", row)) or [100]
        out, err = telling.communicate(timeout=60)
        (user,) = json.loads(out)["total"].values()
        (acts,) = user["tasks"].values()
        ratios = [round(100 * task["ratio"]) for task in acts["tasks"].values()]
        assert sorted(ratios) == shares, err


def test_each_scenario_speaks_all_languages() -> None:
    """With the chats that the table gives it, each meets every script; only `hot-chat` has but one."""
    sizes = re.findall(r"\| ([0-9]+) applications, ([0-9,]+) chats", TEXT)
    assert len(sizes) == len(Scenario) - 1
    for applications, chats in ((int(a), int(c.replace(",", ""))) for a, c in sizes):
        places = [(n % applications, n // applications + 1) for n in range(chats)]
        ground = Ground([""] * applications, places)
        spoken = {ground.tongue(*place).language for place in places}
        assert spoken == {tongue.language for tongue in tongues()}


def test_the_profiles_of_the_page_are_those_that_there_are() -> None:
    """By name."""
    assert set(re.findall(r"^\| `([a-z]+)` \|.*\|.*\|$", TEXT, re.MULTILINE)) >= set(PROFILES)
