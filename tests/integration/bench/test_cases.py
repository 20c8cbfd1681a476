"""The benchmarks: each gives plausible rows at a tiny size, a verdict can fail, and nothing remains."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import psycopg2
import pytest
import redis
from sqlalchemy import make_url

from backend.domain.errors import InstaChatError, Invalid
from backend.settings import Settings
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.postgres import search_indices
from instachat_cli.bench import suite
from instachat_cli.bench.harness import paired_run
from instachat_cli.bench.harness.environment import Environment, Scale, open_environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Side, Verdict, run_pairs
from instachat_cli.bench.reports.performance import markdown, summary
from instachat_cli.console import exit_codes
from instachat_cli.program import invoke
from tests.conftest import Engines, skip_absent
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.engines import scratch_folder
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[3]
NEEDS_WRK = {"http", "reads", "searches"}
TINY = Scale(
    pairs=1,
    startup_pairs=1,
    messages=300,
    jobs=20,
    chats=50,
    rows=(300, 600),
    compared=300,
    slow_pairs=1,
    consumers=((1, 1), (1, 2)),
    load_pairs=1,
    seconds=1,
    search_connections=2,
    large_application_chats=200,
    page_messages=600,
    gateway=False,
    reindexed=600,
    million=1_000,
    keywords=2,
    warm_seconds=0.1,
    long_pairs=1,
    steady_seconds=0.5,
)


def left_behind(settings: Settings) -> list[object]:
    """The databases and keys that benchmarks have left on the engines of the settings."""
    with closing(psycopg2.connect(settings.database_url)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 'instachat_bench%'")
        found: list[object] = [*cursor.fetchall()]
    with redis.Redis.from_url(settings.redis_url or "") as client:
        return [*found, *client.scan_iter("*")]


def indices(url: str) -> set[str]:
    """The names of all indices of an Elasticsearch."""
    with urlopen(f"{url}/_alias", timeout=PATIENCE_SECONDS) as answer:
        return set(json.load(answer))


def group(name: str) -> list[pytest.MarkDecorator]:
    """The mark of a benchmark that shares something expensive with others."""
    if name in suite.NEEDS_ELASTICSEARCH:
        return [pytest.mark.xdist_group("elasticsearch")]
    return [pytest.mark.xdist_group("bench http")] if name in NEEDS_WRK else []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=group(name)) for name in sorted(suite.BENCHMARKS)]
)
def test_each_benchmark_gives_plausible_rows_and_leaves_nothing(
    name: str, engines: Engines, request: pytest.FixtureRequest
) -> None:
    """Every benchmark runs completely, at a size too small for meaningful numbers."""
    if name in NEEDS_WRK and shutil.which("wrk") is None:
        skip_absent("wrk")
    url = None
    if name in suite.NEEDS_ELASTICSEARCH:
        node: Elasticsearch = request.getfixturevalue("elasticsearch")
        url = node.url
    settings = engines.settings(elasticsearch_url=url)
    indices_before = indices(url) if url else set()
    reported: list[Row] = []
    rows, facts = suite.run_benchmarks(settings, [name], TINY, reported.append)
    assert rows == reported != []
    for row in rows:
        assert len(row.pairs) == 1
        assert all(ours > 0 and baseline > 0 for ours, baseline in row.pairs)
        assert row.ratios[0] <= row.ratio <= row.ratios[-1]
        assert not (row.profile and row.needs_no_profile)
    assert facts["Redis"].startswith("Valkey 9")
    assert facts["PostgreSQL"].startswith("18")
    assert left_behind(settings) == []
    if url:
        assert facts["Elasticsearch"].startswith("8.19")
        assert indices(url) == indices_before


def test_baselines_get_an_address_that_their_drivers_understand(settings: Settings) -> None:
    """The Go reader's driver sends options that it does not know to PostgreSQL, which refuses them."""
    with open_environment(settings, TINY) as env:
        assert set(make_url(env.driver_url).query) <= {"host", "port"}


def test_indices_are_removed_with_the_database(
    settings: Settings, elasticsearch: Elasticsearch
) -> None:
    """An environment on an external Elasticsearch has an index of its own, and removes it."""
    given = settings.model_copy(update={"elasticsearch_url": elasticsearch.url})
    with open_environment(given, TINY) as env:
        env.accept_batches(env.texts)
        env.drain()
        assert env.backend.publisher
        assert env.backend.publisher.publish() == TINY.messages
        with env.backend.database.connect() as connection:
            names = [kept.name for kept in search_indices.list_indices(connection)]
        with closing(ElasticsearchIndex(elasticsearch.url)) as index:
            assert [index.list_indices(name.rpartition("-")[0])[name] for name in names] == [True]
    with closing(ElasticsearchIndex(elasticsearch.url)) as index:
        assert index.list_indices(names[0].rpartition("-")[0]) == {}
    assert left_behind(settings) == []


def test_a_redis_in_use_is_left_alone(settings: Settings) -> None:
    """A benchmark empties its Redis at the end, so it refuses one with keys."""
    with redis.Redis.from_url(settings.redis_url or "") as client:
        client.set("foreign", "data")
    with pytest.raises(Invalid, match="in use"), open_environment(settings, TINY):
        pass
    assert left_behind(settings) == [b"foreign"]


def row(ratio: float, goal: Goal | None) -> Row:
    """A row whose pairs have that ratio, plus and minus a tenth."""
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
    """A ratio equal to its goal reaches it; the report marks those that miss."""
    made = row(ratio, goal)
    assert made.ratio == pytest.approx(ratio)
    assert made.verdict is verdict
    text = markdown([made], {"machine": "a fast one"})
    assert ("**missed**" in text) == (verdict is Verdict.MISSED)
    assert ("**aim missed**" in text) == (verdict is Verdict.AIM_MISSED)
    assert "| machine | a fast one |" in text
    assert str(verdict) in summary(made)


def test_the_two_sides_alternate_and_a_missed_goal_is_profiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One unmeasured turn, then pair by pair; `before` and `after` are not timed."""
    turns: list[str] = []
    clock = [0.0]
    monkeypatch.setattr(paired_run, "perf_counter", lambda: clock[0])

    def side(name: str, seconds: float) -> Side:
        def note(what: str) -> Callable[[], None]:
            return lambda: turns.append(f"{name} {what}")

        def run() -> None:
            turns.append(f"{name} runs")
            clock[0] += seconds

        return Side(name, run, 100, before=note("before"), after=note("after"))

    made = run_pairs("a race", "", side("A", 0.02), side("B", 0.005), pairs=2, goal=Goal(1.0))
    turn = [f"{name} {what}" for name in "AB" for what in ("before", "runs", "after")]
    assert turns == turn * 3 + ["A before", "A runs", "A after"]  # the last one is profiled
    assert made.verdict is Verdict.MISSED
    assert "append" in made.profile


@pytest.fixture
def fake_benchmarks(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Benchmarks on the tests' engines: one reaches its goal, one misses it, one needs Elasticsearch."""

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
    """0 if all goals are reached, 4 if not, 2 for an unknown name; only a full run writes the report."""
    report = tmp_path / "performance.md"
    assert ceilings(["good", "--report", str(report), "-o", "markdown"]) == 0
    assert not report.exists()
    assert "| ours (1) | 3 messages/s |" in capsys.readouterr().out
    assert ceilings(["good"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert (json.loads(line)["ratio"], json.loads(line)["verdict"]) == (3.0, "met")
    assert ceilings(["--report", str(report), "--quick"]) == 4
    assert not report.exists()
    assert ceilings(["--report", str(report)]) == 4
    assert "**missed**" in report.read_text()
    said = capsys.readouterr().err
    assert ceilings(["--report", str(report)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert "1 of 2 missed: ours, against theirs" in said
    assert "skipped because INSTACHAT_ELASTICSEARCH_URL is not set: far" in said
    assert ceilings(["nonsense"]) == 2
    assert "good, bad" in capsys.readouterr().err


def test_private_engines_are_removed_even_after_a_signal() -> None:
    """A run that is ended in the middle leaves neither a folder nor a process."""
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
