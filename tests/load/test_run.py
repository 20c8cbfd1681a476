"""`instachat bench run` as a command, against the small server and a private installation."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from loadtest.report.result import Result, loads
from loadtest.run.choices import Scenario
from tests.conftest import Engines
from tests.load.conftest import ROOT, finish, mentions, run_bench, start_bench, wait_for_progress
from tests.support.engines import scratch_folder
from tests.support.http_server import UpServer
from tests.support.load_target import FOUND_AFTER_SECONDS, SLOW_SECONDS, STORED_AFTER_SECONDS
from tests.support.waiting import promised, wait_until

CHATS = 16  # of the runs whose requests are compared


def test_a_clean_run_passes_and_reports_every_figure(start_server: Callable[..., str]) -> None:
    """With two processes: exit 0, an audit without faults, and the lags of the server."""
    run = run_bench(
        *("run", "mixed", "--host", start_server("lag"), "--duration", "6s", "--rate", 60),
        *("--processes", 2, "--seed", 11, "--chats", 16, "-o", "json"),
    )
    assert (run.code, run.err) == (0, "")
    found = run.json
    assert Result.from_json(found).problems == []
    assert (found["seed"], found["profile"], found["scenario"]) == (11, "smoke", "mixed")
    assert found["model"] == "open"
    assert (found["planned_s"], found["chats"]) == (6.0, 16)
    assert {row["name"].split()[0] for row in found["requests"]} == {
        *("GET", "POST", "PATCH", "DELETE")
    }
    for row in found["requests"]:
        assert row["failures"] == 0
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
    audit = found["audit"]
    assert audit["answered"] == audit["stored"] == audit["searchable"] > 50
    assert audit["deleted"] > 0
    assert audit["chats"]["answered"] == audit["chats"]["stored"] >= 16
    assert found["lag_ms"]["stored"]["p50"] >= STORED_AFTER_SECONDS * 1000
    assert found["lag_ms"]["searchable"]["p50"] >= FOUND_AFTER_SECONDS * 1000
    assert found["cpu"]["generator"] > 0
    assert found["cpu"]["servers"] is None  # the servers are not visible with --host
    sent = sum(moment["rate"] for moment in found["timeline"])
    assert sent > found["total"]["count"] > 0  # the ramp-up sends requests that are not measured


@pytest.mark.xdist_group("load real server")  # early, because it takes long
def test_a_real_server_shows_what_is_stored_to_readers_and_followers(
    engines: Engines, tmp_path: Path
) -> None:
    """Pages are right, and many have not changed. Followers miss nothing, though they connect again."""
    server = UpServer(engines.installation(), tmp_path)
    try:
        server.wait_ready()
        to_it = ("--host", f"http://127.0.0.1:{server.port}", "--rate", 60, "--chats", 4)
        reading = start_bench("run", "read-heavy", "--duration", "6s", "--profile-server", *to_it)
        following = start_bench("run", "followers", "--duration", "8s", "--processes", 2, *to_it)
        runs = [finish(reading), finish(following)]
    finally:
        server.remove()
    assert [run.code for run in runs] == [0, 0], [run.err for run in runs]
    read, followed = (run.json for run in runs)

    rows = {row["name"].split("/")[-1]: row for row in read["requests"]}
    assert rows["messages?order=desc"]["count"] > rows["messages"]["count"] > 0
    assert rows["messages?keyword"]["count"] > 0
    pages = read["audit"]["pages"]
    assert pages["read"] > pages["not_modified"] > 0
    assert read["audit"]["deliveries"] is None
    assert read["lag_ms"]["delivered"] is None

    unprofiled = [said for said in read["warnings"] if "there is no profile of the" in said]
    assert len(read["profiles"]) + len(unprofiled) == 2  # tracing may not be allowed here

    assert followed["audit"]["followers"] == 8
    assert followed["audit"]["deliveries"]["received"] > followed["audit"]["answered"]
    lag = followed["lag_ms"]["delivered"]
    assert lag["samples"] > 0
    assert lag["missed"] == 0
    assert 0 <= lag["p50"] <= lag["p95"] <= lag["p99"] <= lag["max"]
    assert any(moment["delivered_ms"] is not None for moment in followed["timeline"])
    rows = {row["name"].split("/")[-1]: row for row in followed["requests"]}
    assert rows["stream"]["count"] > 0  # all of them connected before, so these connect again
    assert followed["total"]["count"] == rows["messages"]["count"]


def test_a_server_that_shows_something_wrong_fails_the_run(
    start_server: Callable[..., str],
) -> None:
    """Exit 4, although everything is stored."""
    expected = {
        ("read-heavy", "stale-tag"): {"pages stale"},
        ("followers", "unsent", "mangle"): {"deliveries missed", "deliveries wrong text"},
    }
    runs = {
        (scenario, *faults): start_bench(
            *("run", scenario, "--host", start_server(*faults), "--duration", "5s", "--rate", 60),
            *("--chats", 1),  # each user reads it again and again, on a slow machine, too
        )
        for scenario, *faults in expected
    }
    for case, started in runs.items():
        run = finish(started)
        assert run.code == 4, (case, run.err)
        (said,) = re.findall(r"the run did not pass: (.*)", run.err)
        kinds = {re.sub(r"[0-9,]+ ", "", fault) for fault in said.split("; ")}
        assert kinds == expected[case]
        audit = run.json["audit"]
        assert audit["answered"] == audit["stored"] == audit["searchable"] > 0
        assert audit["examples"]


def test_a_kill_leaves_no_process() -> None:
    """After `kill -9` during the load, the engines, the worker, the server and Locust end as well."""
    folder = scratch_folder("load")
    run = start_bench(
        *("run", "mixed", "--profile", "soak", "--rate", 20, "--chats", 16, "--processes", 2),
        TMPDIR=str(folder),
    )
    wait_for_progress(run)
    family = psutil.Process(run.pid).children(recursive=True)
    family += [p for p in psutil.process_iter(["cmdline"]) if mentions(p, folder)]  # the engines
    assert len(family) > 12
    run.kill()
    finish(run)
    try:
        wait_until(lambda: not any(map(psutil.Process.is_running, family)))
    finally:
        for process in filter(psutil.Process.is_running, family):
            process.kill()
        shutil.rmtree(folder)


def test_a_bad_server_fails_the_run(start_server: Callable[..., str]) -> None:
    """Exit 4, with all figures, and each reason in words: what the audit found, and the limit."""
    run = run_bench(
        *("run", "ingest", "--host", start_server("lose", "skip", "slow"), "--duration", "4s"),
        *("--patience", "2s", "--rate", 40, "--chats", 4, "--max-p99", "50ms"),
    )
    assert run.code == 4
    assert all(why in run.err for why in (" lost", " gaps", "ms, at most 50 ms is allowed"))
    assert run.json["total"]["count"] > 0
    assert run.json["total"]["p50_ms"] >= SLOW_SECONDS * 1000


def test_a_stall_shows_at_a_fixed_rate(start_server: Callable[..., str]) -> None:
    """The server stalls for one second: requests that were due meanwhile waited, and the p99 shows it.

    With two users only two requests are under way during the stall, too few for a p99. It shows because a
    latency counts from the time at which the request was due.
    """
    run = run_bench(
        *("run", "ingest", "--host", start_server("stall"), "--duration", "6s", "--rate", 60),
        *("--users", 2, "--max-p99", "400ms", "--chats", 4),
    )
    assert run.code == 4
    found = run.json
    assert found["total"]["rate"] == pytest.approx(60, rel=0.3)
    assert found["total"]["p99_ms"] > 800
    # Of all that was due within the stall: evenly from 1 s down to nothing, in two of the line's seconds.
    assert max(moment["p95_ms"] or 0 for moment in found["timeline"]) > 800


def test_bursts_wait_longer_at_the_same_rate(start_server: Callable[..., str]) -> None:
    """Two users whose requests take 80 ms wait for nothing at 16 arrivals a second, but for bursts."""
    run = run_bench(
        *("run", "ingest", "--host", start_server("slow"), "--rate", 16, "--users", 2),
        *("--duration", "5s", "--chats", 4, "--seed", 3, "--arrivals", "gamma:0.1"),
    )
    found = run.json
    assert found["arrivals"] == "gamma:0.1"
    # By these arrivals and 80 ms each, the p99 is 0.9 s; a busy machine adds to it.
    assert found["total"]["p99_ms"] > 8 * SLOW_SECONDS * 1000
    assert found["total"]["p50_ms"] > 2 * SLOW_SECONDS * 1000


def test_a_limit_ends_a_hopeless_run(start_server: Callable[..., str]) -> None:
    """Exit 4 long before the planned end, with what was measured and audited until then."""
    run = run_bench(
        *("run", "ingest", "--host", start_server("slow", "err"), "--rate", 20, "--duration", "5m"),
        *("--chats", 4, "--abort-on", "errors=90%", "--abort-on", "p99=50ms"),
        *("--max-errors", "0.1%"),
    )
    assert run.code == 4
    assert "% failed, at most 0.10% may" in run.err
    assert re.search(r"did not pass: aborted after \d+ s: of the last 5 s, the p99 was", run.err)
    found = loads(run.out)
    assert not found.interrupted
    assert found.duration_s < 60  # of 300
    assert found.audit.answered == found.audit.stored > 0
    assert found.total.p50_ms is not None
    assert found.total.p50_ms >= SLOW_SECONDS * 1000


def test_runs_with_one_seed_send_the_same(start_server: Callable[..., str], tmp_path: Path) -> None:
    """By one user, the same requests with the same bodies in the same order; by several, the same texts.

    The answers to the several users take random times, so different users take the arrivals, and some have
    sent nothing yet. With this seed, many of the first arrivals are edits and deletions, so the runs differ
    in which users have sent a message before.
    """
    logs = [tmp_path / name for name in ("a", "b", "several")]
    runs = [
        start_bench(
            *("run", "mixed", "--host", start_server(*faults, "--log", log), "--users", users),
            *("--seed", 259, "--rate", 40, "--duration", "6s", "--chats", 16),
        )
        for log, users, faults in zip(logs, (1, 1, 5), ([], [], ["uneven"]), strict=True)
    ]
    assert {finish(run).code for run in runs} == {0}
    one, same = (_sent_requests(log) for log in logs[:2])
    shared = min(len(one), len(same))
    assert shared > 40
    assert one[:shared] == same[:shared]
    texts, same_texts = _sent_texts(logs[0]), _sent_texts(logs[2])
    assert len(texts) > 20
    assert texts == same_texts
    assert [_left(log) for log in logs] == [0, 0, 0]


def test_ctrl_c_reports_what_there_is(start_server: Callable[..., str], tmp_path: Path) -> None:
    """The load ends, is audited, and is reported, also as files; the exit code is 130.

    The time that its processes take to end is not part of the measured window.
    """
    report = tmp_path / "not there" / "yet"
    run = start_bench(
        *("run", "ingest", "--host", start_server(), "--duration", "2m", "--rate", 40),
        *("--processes", 2, "--chats", 4, "-o", "table", "--report", report),
    )
    wait_for_progress(run)  # after the ramp-up of 2 s
    run.send_signal(signal.SIGINT)
    done = finish(run)
    assert done.code == 130
    (audit,) = re.findall(r"^audit +([0-9,]+) answered, ([0-9,]+) stored", done.out, re.MULTILINE)
    assert audit[0] == audit[1] != "0"
    assert "nothing lost" in done.out
    assert "interrupted" in done.err
    assert f"the report is {report}/report.html" in done.err
    assert "Interrupted" in (report / "report.html").read_text()
    found = loads((report / "result.json").read_text())
    assert found.audit.answered == int(audit[0].replace(",", ""))
    assert found.total.count > 0
    assert found.window.to_s == pytest.approx(found.duration_s, abs=0.01)
    last_s = max(moment.at_s for moment in found.timeline if moment.rate)
    assert (
        found.duration_s <= last_s + 2
    )  # a moment is one second, and an answer may follow in the next


@pytest.mark.parametrize("amid", ["stopping", "auditing"])
def test_a_second_ctrl_c_ends_everything(amid: str, start_server: Callable[..., str]) -> None:
    """It ends everything at once, even a wait for a search that never finds anything."""
    folder = scratch_folder("load")
    run = start_bench(
        *("run", "mixed", "--host", start_server("deaf"), "--duration", "5m", "--rate", 20),
        *("--chats", 4, "--patience", "3s" if amid == "auditing" else "60s"),
        TMPDIR=str(folder),
    )
    assert run.stderr
    wait_for_progress(run)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    while amid not in run.stderr.readline():
        assert run.poll() is None
    time.sleep(0.3)  # amid it, not before it
    with promised(2):
        run.send_signal(signal.SIGINT)
        done = finish(run)
    assert (done.code, done.out) == (130, "")
    assert not any(map(psutil.Process.is_running, family))
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_locusts_page_answers_and_the_run_ends_by_itself(start_server: Callable[..., str]) -> None:
    """With `--web` the page is at the reported address, and the run starts and ends without it."""
    run = start_bench(
        *(
            "run",
            "ingest",
            "--host",
            start_server(),
            "--duration",
            "3s",
            "--rate",
            20,
            "--chats",
            4,
        ),
        "--web",
    )
    assert run.stderr
    while not (found := re.search(r"page is at (http://\S+)", run.stderr.readline())):
        assert run.poll() is None
    wait_until(lambda: "<title>Locust</title>" in _page(found[1]))
    done = finish(run)
    assert done.code == 0
    result = loads(done.out)
    assert result.total.count > 0
    assert not result.interrupted


def test_breakpoint_ends_once_two_levels_in_a_row_did_not_hold(
    start_server: Callable[..., str],
) -> None:
    """A server that is too slow for the first level ends the run before its planned length."""
    run = run_bench(
        *(
            "run",
            "ingest",
            "--profile",
            "breakpoint",
            "--host",
            start_server("slow"),
            "--duration",
            "40s",
        ),
        *("--rate", 20, "--max-p99", "50ms", "--chats", 4),
    )
    assert run.code == 4
    assert "not even the first level held" in run.err
    found = loads(run.out)
    assert not found.interrupted
    assert found.duration_s < 20  # of 40
    assert found.breakpoint
    assert found.breakpoint.level is None
    assert 2 <= len(found.breakpoint.steps) <= 4
    assert {step.why for step in found.breakpoint.steps} == {"p99"}  # no step was cut off


def test_a_run_that_can_not_start_has_its_own_exit_codes(start_server: Callable[..., str]) -> None:
    """5 without a server, 1 if it is not InstaChat, 2 for wrong usage; standard output is empty."""
    host = start_server()
    for words, code, said in (
        (["--host", "http://127.0.0.1:1"], 5, "http://127.0.0.1:1 does not answer"),
        (
            ["--host", f"{host}/elsewhere"],
            1,
            f"error: {host}/elsewhere answers 404 to POST /applications\n",
        ),
        (["nonsense"], 2, "'nonsense' is not one of"),
        (
            ["--host", host, "--report", ROOT / "README.md"],
            2,
            "README.md: File exists",
        ),
        (["--duration", "long"], 2, "'long' is not a time"),
        (["--users", 0], 2, "0 is not 1 or more"),
        (["--arrivals", "poisson"], 2, "--arrivals needs a rate"),
        (["--abort-on", "p50=1s"], 2, "'p50=1s' is not a limit"),
        (["--fault", "kill:worker@9s", "--host", host], 2, "--fault needs a private installation"),
        (["--preload", "1k", "--host", host], 2, "--preload needs a private installation"),
        (["--fault", "kill:worker@2m"], 2, "the load ends after 10 s"),
    ):
        run = run_bench("run", *words)
        assert (run.code, run.out) == (code, "")
        assert said in run.err


def test_a_tag_chooses_what_is_sent(start_server: Callable[..., str], tmp_path: Path) -> None:
    """With `--tags send`, Locust alone sends only messages."""
    log = tmp_path / "log"
    locust = [sys.executable, "-m", "locust", "-f", str(ROOT / _file(Scenario.MIXED)), "--headless"]
    run = subprocess.Popen(
        [
            *locust,
            *("--host", start_server("--log", log), "--users", "4", "--rate", "40", "--chats", "4"),
            *("--tags", "send", "--only-summary", "--stop-timeout", "5", "--run-time", "100"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_lines(run, log, "/messages", 12)
    run.terminate()
    done = finish(run)
    assert done.code == 0, done.err
    sent = [json.loads(line)[:2] for line in log.read_text().splitlines()]
    sent_routes = [(method, target.rpartition("/")[2]) for method, target in sent]
    first_message = sent_routes.index(("POST", "messages"))
    assert set(sent_routes[:first_message]) == {("POST", "applications"), ("POST", "chats")}
    assert {method for method, _ in sent_routes[first_message:]} == {"POST", "DELETE"}
    assert {route for method, route in sent_routes[first_message:] if method == "POST"} == {
        "messages"
    }
    assert _left(log) == 0


def test_each_kind_of_user_runs_by_locust_alone(
    start_server: Callable[..., str], tmp_path: Path
) -> None:
    """It runs in any folder and for any address, without `bench run`.

    The others have only tasks of `mixed`, by which other tests run Locust alone.
    """
    kinds = (Scenario.BATCH, Scenario.SEARCH, Scenario.READ_HEAVY, Scenario.FOLLOWERS)
    logs = {scenario: tmp_path / scenario for scenario in kinds}
    runs = {
        scenario: subprocess.Popen(
            [
                *(sys.executable, "-m", "locust", "-f", ROOT / _file(scenario), "--headless"),
                *("--host", start_server("--log", log), "--rate", "20", "--chats", "4"),
                *("--only-summary", "--stop-timeout", "5", "--json", "--run-time", "100"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for scenario, log in logs.items()
    }
    for scenario, run in runs.items():
        sent = {
            Scenario.SEARCH: "keyword=",
            Scenario.READ_HEAVY: "order=desc",
            Scenario.FOLLOWERS: '/messages", "{',
        }
        _wait_for_lines(run, logs[scenario], sent.get(scenario, "/messages"), 5)
        run.terminate()
    for scenario, run in runs.items():
        done = finish(run)
        assert done.code == 0, done.err
        rows: list[dict[str, Any]] = done.json
        assert sum(row["num_requests"] for row in rows) > 0, scenario
        assert all(row["num_failures"] == 0 for row in rows)
        assert all(row["name"].startswith("/applications/{token}") for row in rows)


def _wait_for_lines(run: "subprocess.Popen[str]", log: Path, part: str, count: int) -> None:
    """Wait until more than `count` lines of the log contain `part`, or the run has ended."""

    def found() -> int:
        return sum(part in line for line in log.read_text().splitlines()) if log.exists() else 0

    wait_until(lambda: run.poll() is not None or found() > count)


def _file(scenario: Scenario) -> str:
    return f"loadtest/scenarios/{scenario.replace('-', '_')}.py"


def _page(address: str) -> str:
    """The text of a page; empty if there is no answer."""
    try:
        with urlopen(address, timeout=5) as answer:
            return str(answer.read(), "utf-8")
    except URLError:
        return ""


def _left(log: Path) -> int:
    """How many of the applications that were created are not deleted at the end."""
    sent = [json.loads(line)[:2] for line in log.read_text().splitlines()]
    deleted = [method for method, target in sent if target.endswith("?cascade=true")]
    created = [method for method, target in sent if target.endswith("/applications")]
    assert created
    assert set(deleted) <= {"DELETE"}
    return len(created) - len(deleted)


def _sent_texts(log: Path) -> Counter[str]:
    """How often arrivals sent each text, without those of the last four seconds."""
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    texts = [
        json.loads(data)["message"]["text"]
        for method, target, data in requests
        if method == "POST" and target.endswith("/messages")
    ]
    arrivals = {text: re.search(r"~259\.a([0-9]+)\.", text) for text in texts}
    return Counter(t for t in texts if (found := arrivals[t]) and int(found[1]) < 80)


def _sent_requests(log: Path) -> list[str]:
    """The requests of the users, without the numbers that the server assigned.

    The requests for the fixtures and their removal, of the sampler and of the audit are left out.
    """
    lines = log.read_text().splitlines()
    begin = [n for n, line in enumerate(lines) if '/chats", ""]' in line][CHATS - 1] + 1
    sent = [re.sub(r'messages/[0-9]+"', 'messages/N"', line) for line in lines[begin:]]
    others = re.compile(r"\.s\.|limit=200|order=desc&limit=1\b|GET.*messages/N|cascade=true")
    return [line for line in sent if not others.search(line)]
