"""Runs every command of docs/loadtest.md, with less load and on the small server."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import languages
from loadtest.report.result import LoadModel, loads
from loadtest.run.choices import Profile, Scenario
from loadtest.run.plan import PROFILES, plan
from tests.load.conftest import ROOT, finish, mentions
from tests.support.engines import free_port, scratch_folder

TEXT = (ROOT / "docs" / "loadtest.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


def commands(mark: str) -> list[list[str]]:
    """The commands of the code blocks with that mark, as words."""
    found = (body for name, body in BLOCK.findall(TEXT) if name == mark)
    lines = [line for body in found for line in body.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines]


def start(
    words: list[str], host: str, *more: object, **environment: str
) -> "subprocess.Popen[str]":
    """Start a command of the page with another address and further options.

    It uses the programs beside this Python, because a Git worktree has no .venv.
    """
    assert words[0].startswith(".venv/bin/")
    words = [str(Path(sys.executable).with_name(Path(words[0]).name)), *words[1:]]
    words = [host if word == "http://127.0.0.1:3000" else word for word in words]
    return subprocess.Popen(
        [*words, *map(str, more)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
        | {"PYTHONFAULTHANDLER": "1"}
        | environment,
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
        shorter = ["--duration", "3s", "--users", 5, "--chats", 2, "-o", "json"]
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
    assert (
        len((tmp_path / "latencies.hlog").read_text().splitlines()) > 4
    )  # a second each, and routes


def sooner(word: str) -> str:
    """The duration of a run, or the moment of a fault, halved; any other word as it is."""
    return re.sub(r"(^|@)(\d+)s", lambda found: f"{found[1]}{int(found[2]) // 2}s", word)


@pytest.mark.xdist_group("load faults")  # early, because it takes long
def test_faults_on_a_private_installation_lose_nothing(tmp_path: Path) -> None:
    """What each has cost is reported. The installation is removed; no file or process remains.

    The faults of the page follow each other in half of the time that the page leaves between them.
    """
    folder = scratch_folder("load")
    (words,) = commands("faults")
    words = [sooner(word) for word in words]
    ((*_, option, _),) = commands("preload")
    words[words.index("--report") + 1] = str(tmp_path)
    run = finish(
        start(
            [*words, option, "2500", "-o", "json"],
            "",
            TMPDIR=str(folder),
            INSTACHAT_ELASTICSEARCH_URL="http://127.0.0.1:1",
        )
    )
    assert run.code == 0, run.err
    assert "INSTACHAT_ELASTICSEARCH_URL is not used" in run.err
    found = loads(run.out)
    assert found.facts["search"].startswith("PostgreSQL")
    assert found.private
    assert found.preload == 2_500
    assert not any("404" in row.errors for row in found.requests)  # a sixth of the reads go there
    assert found.audit.answered == found.audit.stored > 0
    assert found.cpu.servers is not None
    assert found.cpu.servers > 0
    assert found.memory_mb.servers is not None
    assert found.memory_mb.servers > 100  # PostgreSQL, Valkey, worker, API

    _, kept_away, hung, _ = found.faults
    assert [f"--fault {fault.fault}" in shlex.join(words) for fault in found.faults] == [True] * 4
    assert kept_away.to_s - kept_away.from_s > 1.9
    # Nothing is stored for two seconds of the run; how a moment falls into that decides how much it shows.
    assert max(moment.stored_ms or 0 for moment in found.timeline) > 500
    assert hung.highest_p99_ms is not None
    assert hung.highest_p99_ms > 900
    assert kept_away.fault in (tmp_path / "report.html").read_text()

    assert list(folder.iterdir()) == []
    folder.rmdir()
    assert not [p for p in psutil.process_iter(["cmdline"]) if mentions(p, folder)]


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


def test_each_scenario_uses_all_languages() -> None:
    """With the chats of the table, each uses every language, except `hot-chat`, which has one chat."""
    sizes = re.findall(r"\| ([0-9]+) applications, ([0-9,]+) chats", TEXT)
    assert len(sizes) == len(Scenario) - 1
    for applications, chats in ((int(a), int(c.replace(",", ""))) for a, c in sizes):
        places = [(n % applications, n // applications + 1) for n in range(chats)]
        fixtures = Fixtures([""] * applications, places)
        names = {fixtures.language(*place).name for place in places}
        assert names == {language.name for language in languages()}


def test_the_shares_and_sizes_of_the_page_are_those_of_the_scenarios() -> None:
    """The shares of the tasks, and the numbers of applications, chats, first messages and followers."""
    code = (
        "import json, sys\n"
        "from collections import Counter\n"
        "from locust.util.load_locustfile import load_locustfile\n"
        "users = [user for path in sys.argv[1:] for user in load_locustfile(path)[0].values()]\n"
        "tasks = [user.tasks[0].tasks for user in users]\n"
        "shares = [[100 * n / len(all) for n in Counter(all).values()] for all in tasks]\n"
        "layouts = [list(vars(user.layout).values()) for user in users]\n"
        "print(json.dumps(list(zip(shares, layouts))))"
    )
    files = [f"loadtest/scenarios/{scenario.replace('-', '_')}.py" for scenario in Scenario]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for scenario, (shares, layout) in zip(Scenario, json.loads(done.stdout), strict=True):
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{scenario}`")]
        stated = sorted(int(share) for share in re.findall(r"([0-9]+) %", row)) or [100]
        assert sorted(round(share) for share in shares) == stated, scenario
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
