"""Runs every command of docs/loadtest.md, with less load and on the small server."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import languages
from loadtest.report.result import LoadModel
from loadtest.run.choices import Profile, Scenario
from loadtest.run.plan import PROFILES, plan
from tests.load.conftest import ROOT, finish
from tests.support.engines import free_port
from tests.support.waiting import PATIENCE_SECONDS

TEXT = (ROOT / "docs" / "loadtest.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


def commands(mark: str) -> list[list[str]]:
    """The commands of the code blocks with that mark, as words."""
    found = (body for name, body in BLOCK.findall(TEXT) if name == mark)
    return [shlex.split(line) for body in found for line in body.splitlines()]


def start(words: list[str], host: str, *more: object) -> "subprocess.Popen[str]":
    """Start a command of the page with another address and further options.

    It uses the programs beside this Python, because a Git worktree has no .venv.
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


def test_every_bench_command_of_the_page_runs(
    start_server: Callable[..., str], tmp_path: Path
) -> None:
    """Each gives a result; on a busy machine it may miss a threshold."""
    started = []
    for words in commands(""):
        assert words[1:3] == ["bench", "run"]
        host = start_server()
        shorter = ["--duration", "4s", "--users", 5, "--chats", 2, "-o", "json"]
        model = "closed" if "--users" in words else "open"
        shorter += ["--rate", 20] if model == "open" else []
        elsewhere = ["--report", tmp_path] if "--report" in words else []
        started.append((model, start(words, host, "--host", host, *shorter, *elsewhere)))
    assert {model for model, _ in started} == {"closed", "open"}
    for model, running in started:
        run = finish(running)
        assert run.code in (0, 4), run.err
        assert run.json["model"] == model
        assert run.json["audit"]["answered"] > 0
        total, window = run.json["total"], run.json["window"]
        seconds = window["to_s"] - window["from_s"]
        assert total["rate"] == pytest.approx(total["count"] / seconds, rel=0.01)
    assert (tmp_path / "report.html").exists()


def test_the_load_comes_from_workers_started_by_hand(
    start_server: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two commands of a run whose workers are started by hand work together."""
    host, port = start_server(), str(free_port())
    monkeypatch.setenv("LOCUST_MASTER_BIND_PORT", port)
    monkeypatch.setenv("LOCUST_MASTER_NODE_PORT", port)
    first, worker = commands("workers")
    run = start(first, host, "--duration", "4s", "--rate", 40, "--chats", 4, "-o", "json")
    workers = [start(worker, host) for _ in range(2)]
    done = finish(run)
    assert done.code == 0, done.err
    assert done.json["processes"] == 2
    assert done.json["audit"]["answered"] == done.json["audit"]["stored"] > 0
    assert [finish(worker).code for worker in workers] == [0, 0]


def test_locust_runs_alone(start_server: Callable[..., str]) -> None:
    """The command that runs Locust without `bench run` works."""
    (words,) = commands("alone")
    run = start(words, start_server(), "--run-time", "4s", "--rate", 20, "--chats", 4)
    done = finish(run)
    assert done.code == 0, done.err
    assert "Aggregated" in done.err


def test_the_shares_of_the_page_are_those_of_the_scenarios() -> None:
    """Every share in the table equals the one that Locust reports for the scenario."""
    ratio_commands = {
        scenario: start(
            [".venv/bin/locust", "-f", f"loadtest/scenarios/{scenario.replace('-', '_')}.py"],
            "",
            "--show-task-ratio-json",
        )
        for scenario in Scenario
    }
    for scenario, process in ratio_commands.items():
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{scenario}`")]
        shares = sorted(int(share) for share in re.findall(r"([0-9]+) %", row)) or [100]
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        (user,) = json.loads(out)["total"].values()
        (acts,) = user["tasks"].values()
        ratios = [round(100 * task["ratio"]) for task in acts["tasks"].values()]
        assert sorted(ratios) == shares, err


def test_each_scenario_uses_all_languages() -> None:
    """With the chats of the table, each uses every language, except `hot-chat`, which has one chat."""
    sizes = re.findall(r"\| ([0-9]+) applications, ([0-9,]+) chats", TEXT)
    assert len(sizes) == len(Scenario) - 1
    for applications, chats in ((int(a), int(c.replace(",", ""))) for a, c in sizes):
        places = [(n % applications, n // applications + 1) for n in range(chats)]
        fixtures = Fixtures([""] * applications, places)
        names = {fixtures.language(*place).name for place in places}
        assert names == {language.name for language in languages()}


def test_the_sizes_of_the_page_are_those_of_the_scenarios() -> None:
    """The numbers of applications, chats, first messages and followers equal those of the scenarios."""
    code = (
        "import json, sys\n"
        "from locust.util.load_locustfile import load_locustfile\n"
        "users = [user for path in sys.argv[1:] for user in load_locustfile(path)[0].values()]\n"
        "layouts = [user.layout for user in users]\n"
        "print(json.dumps([list(vars(layout).values()) for layout in layouts]))"
    )
    files = [f"loadtest/scenarios/{scenario.replace('-', '_')}.py" for scenario in Scenario]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for scenario, layout in zip(Scenario, json.loads(done.stdout), strict=True):
        (size,) = re.findall(rf"^\| `{scenario}` \|.*\| (.*) \|$", TEXT, re.MULTILINE)
        size = "1 applications, 1 chats" if size == "one chat" else size
        match = re.fullmatch(
            r"([0-9]+) applications, ([0-9,]+) chats(?: of ([0-9,]+) messages each)?"
            r"(?:, ([0-9]+) followers each)?",
            size,
        )
        assert match, size
        assert [int((count or "0").replace(",", "")) for count in match.groups()] == layout, (
            scenario
        )


SHARES = {"hold": 1.0, "all of it": 1.0, "three quarters": 0.75, "a half": 0.5, "a quarter": 0.25}
SHARES["a tenth"] = 0.1


def test_the_profiles_of_the_page_are_the_defined_ones() -> None:
    """The default length, users or first rate, and levels of each profile."""
    rows = re.findall(
        r"^\| `([a-z]+)` \| (.*) \| (?:at most )?([0-9]+) (s|min|h),(?: from)? ([0-9]+)(/s| users) \|$",
        TEXT,
        re.MULTILINE,
    )
    assert [name for name, *_ in rows] == list(PROFILES)
    for name, course, length, unit, amount, of_what in rows:
        planned = plan(Scenario.MIXED, Profile(name), 1)
        assert planned.seconds == int(length) * {"s": 1, "min": 60, "h": 3_600}[unit]
        assert (planned.model is LoadModel.OPEN) == (of_what == "/s")
        held = [stage.end / int(amount) for stage in planned.stages if stage.measured]
        if planned.model is LoadModel.OPEN:
            assert "up by a quarter each step" in course
            assert held[:3] == [1, 1.25, 1.25**2]
        else:
            assert planned.users == int(amount)
            assert held == [SHARES[words] for words in course.split(", ") if words != "up"]
