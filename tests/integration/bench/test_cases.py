"""The benchmarks: each gives sane rows at a tiny size, a verdict can fail, and nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
import redis

from backend.domain.errors import InstaChatError, Invalid
from backend.settings import Settings
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.postgres import search_indices
from instachat_cli.bench import suite
from instachat_cli.bench.harness import paired_run as duel_module
from instachat_cli.bench.harness.environment import Environment, Scale, open_environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, Verdict, run_pairs
from instachat_cli.bench.reports.performance import markdown, summary
from instachat_cli.console import exit_codes
from instachat_cli.program import invoke
from tests.conftest import skip_absent
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.engines import scratch_folder
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[3]
TINY = Scale(
    pairs=2,
    startup_pairs=1,
    messages=300,
    jobs=20,
    chats=50,
    rows=(300, 600),
    compared=300,
    slow_pairs=2,
    consumers=((1, 1), (2, 2)),
    load_pairs=1,
    seconds=1,
    large_application_chats=200,
    gateway=False,
)


def left_behind(settings: Settings) -> list[object]:
    """What benchmarks have left on given engines: databases, keys."""
    with closing(psycopg2.connect(settings.database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 'instachat_bench%'")
        found: list[object] = [*cursor.fetchall()]
    with redis.Redis.from_url(settings.redis_url or "") as client:
        return [*found, *client.scan_iter("*")]


@pytest.mark.parametrize("name", sorted(suite.BENCHMARKS.keys() - suite.NEEDS_ELASTICSEARCH))
def test_each_gives_sane_rows_and_leaves_nothing(name: str, settings: Settings) -> None:
    """Every benchmark, whole, at a size where its numbers mean nothing."""
    if name == "http" and shutil.which("wrk") is None:
        skip_absent("wrk")
    reported: list[Row] = []
    rows, facts = suite.run_benchmarks(settings, [name], TINY, reported.append)
    assert rows == reported != []
    for row in rows:
        assert len(row.pairs) in (TINY.pairs, TINY.startup_pairs, 1)
        assert all(ours > 0 and baseline > 0 for ours, baseline in row.pairs)
        assert row.ratios[0] <= row.ratio <= row.ratios[-1]
        assert (row.profile == "") == (row.verdict in (Verdict.MET, Verdict.INFORMATION))
    assert facts["Redis"].startswith("Valkey 9")
    assert facts["PostgreSQL"].startswith("18")
    assert left_behind(settings) == []


def test_indices_are_gone_with_the_database(
    settings: Settings, elasticsearch: Elasticsearch
) -> None:
    """Environment on a given Elasticsearch has an index to measure with, and leaves none."""
    given = settings.model_copy(update={"elasticsearch_url": elasticsearch.url})
    with open_environment(given, TINY) as env:
        env.accept_batches(env.texts)
        env.drain()
        assert env.backend.publisher
        assert env.backend.publisher.publish() == TINY.messages
        with env.backend.database.connect() as connection:
            names = [kept.name for kept in search_indices.list_indices(connection)]
        with closing(ElasticsearchIndex(elasticsearch.url)) as index:
            assert [index.exists(name) for name in names] == [True]
    with closing(ElasticsearchIndex(elasticsearch.url)) as index:
        assert not index.exists(names[0])
    assert left_behind(settings) == []


def test_a_redis_in_use_is_left_alone(settings: Settings) -> None:
    """A benchmark empties its Redis at the end: it must be nobody's."""
    with redis.Redis.from_url(settings.redis_url or "") as client:
        client.set("somebody's", "data")
    with pytest.raises(Invalid, match="in use"), open_environment(settings, TINY):
        pass
    assert left_behind(settings) == [b"somebody's"]


def row(ratio: float, goal: Goal | None) -> Row:
    """A row whose pairs have that ratio, give or take a tenth."""
    pairs = [(ratio * share, 1.0) for share in (0.9, 1.0, 1.1)]
    profile = "slow.py:1 crawl" if goal else ""
    return Row("ours", "as it is", "ours", "theirs", "messages/s", pairs, goal, profile)


@pytest.mark.parametrize(
    ("ratio", "goal", "verdict"),
    [
        (2.0, Goal(1.0, aim=2.0), Verdict.MET),
        (1.9, Goal(1.0, aim=2.0), Verdict.AIM_MISSED),
        (1.0, Goal(1.0), Verdict.MET),
        (0.9, Goal(1.0, aim=2.0), Verdict.MISSED),
        (1.5, Goal(1.5, at_most=True), Verdict.MET),
        (1.6, Goal(1.5, at_most=True), Verdict.MISSED),
        (1.4, Goal(1.5, aim=1.2, at_most=True), Verdict.AIM_MISSED),
        (0.1, None, Verdict.INFORMATION),
    ],
)
def test_the_median_decides(ratio: float, goal: Goal | None, verdict: Verdict) -> None:
    """On the bar is reached; the report says so, and where the time goes of what missed."""
    made = row(ratio, goal)
    assert made.ratio == pytest.approx(ratio)
    assert made.verdict is verdict
    text = markdown([made], {"machine": "a good one"})
    assert ("**missed**" in text) == (verdict is Verdict.MISSED)
    assert ("**aim missed**" in text) == (verdict is Verdict.AIM_MISSED)
    assert "| machine | a good one |" in text
    assert str(verdict) in summary(made)


def test_the_two_sides_alternate_and_a_missed_goal_is_profiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One turn that does not count, then pair by pair; preparing and tidying up are not timed."""
    turns: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(duel_module, "perf_counter", lambda: clock[0])

    def side(name: str, seconds: float) -> Side:
        def note(what: str) -> Callable[[], None]:
            return lambda: turns.append(f"{name} {what}")

        def run() -> None:
            turns.append(f"{name} runs")
            clock[0] += seconds

        return Side(name, run, 100, before=note("before"), after=note("after"))

    made = run_pairs("a race", "", side("A", 0.02), side("B", 0.005), pairs=2, goal=Goal(1.0))
    turn = [f"{name} {what}" for name in "AB" for what in ("before", "runs", "after")]
    assert turns == turn * 3 + ["A before", "A runs", "A after"]  # the last is the profile's
    assert made.verdict is Verdict.MISSED
    assert "append" in made.profile


@pytest.fixture
def fake_benchmarks(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Benchmarks on the tests' engines: one reaches its goal, one does not, one needs Elasticsearch."""

    def good(_: Environment) -> Iterator[Row]:
        yield row(3.0, Goal(1.0))

    def bad(_: Environment) -> Iterator[Row]:
        yield row(0.5, Goal(1.0))

    def far(_: Environment) -> Iterator[Row]:
        pytest.fail("it needs Elasticsearch, and there is none")

    monkeypatch.setattr(suite, "NEEDS_ELASTICSEARCH", frozenset({"far"}))
    monkeypatch.setattr(suite, "BENCHMARKS", {"good": good, "bad": bad, "far": far})
    monkeypatch.setenv("INSTACHAT_DATABASE_URL", settings.database_url or "")
    monkeypatch.setenv("INSTACHAT_REDIS_URL", settings.redis_url or "")


def ceilings(arguments: list[str]) -> int:
    """Run `instachat bench ceilings` in this process; returns its exit code."""
    try:
        return invoke(["bench", "ceilings", *arguments])
    except InstaChatError as error:
        return exit_codes.report_error(error)


@pytest.mark.usefixtures("fake_benchmarks")
def test_the_exit_code_is_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all is reached, 4 when not, 2 for what does not exist; only a whole run makes the report."""
    report = tmp_path / "performance.md"
    assert ceilings(["good", "--report", str(report)]) == 0
    assert not report.exists()
    assert "| ours (1) | 3 messages/s |" in capsys.readouterr().out
    assert ceilings(["--report", str(report), "--quick"]) == 4
    assert not report.exists()
    assert ceilings(["--report", str(report)]) == 4
    assert "**missed**" in report.read_text()
    said = capsys.readouterr().err
    assert "1 of 2 missed: ours, against theirs" in said
    assert "skipped because INSTACHAT_ELASTICSEARCH_URL is not set: far" in said
    assert ceilings(["nonsense"]) == 2
    assert "good, bad" in capsys.readouterr().err


def test_private_engines_are_gone_even_after_a_signal() -> None:
    """Neither a folder nor a process is left of a run that was ended in the middle."""
    folder = scratch_folder("bench")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    run = subprocess.Popen(
        [sys.executable, "-m", "instachat_cli", "bench", "ceilings", "drain-copy"],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: list(folder.glob("instachat-bench-*/run/state.json")))
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=PATIENCE_SECONDS)[1].decode()
        assert run.returncode == 130, said
        assert list(folder.iterdir()) == []
        assert not _processes_in(folder)
    finally:
        run.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _processes_in(folder: Path) -> list[str]:
    listed = subprocess.run(["ps", "ax", "-o", "args"], check=True, text=True, capture_output=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]
