"""Unit tests of the parts of the load tool that need no server."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, pvariance

import pytest

from backend.domain.folding import fold_keyword
from loadtest.corpus.texts import Marks, languages
from loadtest.recording import FOLLOW, SEND, Recorder, RequestReader, append_records
from loadtest.report.result import (
    Audit,
    ChatAudit,
    Cpu,
    DeliveryAudit,
    Lags,
    Level,
    LoadModel,
    Memory,
    Moment,
    PageAudit,
    Result,
    Spread,
    Threshold,
    Window,
    dumps,
    loads,
)
from loadtest.report.result import RouteStatistics as Row
from loadtest.run.abort import AbortLimit
from loadtest.run.arrivals import Spacing
from loadtest.run.choices import Profile, Scenario
from loadtest.run.deliveries import Deliveries
from loadtest.run.faults import Fault, InjectedFault
from loadtest.run.generator import locust_command
from loadtest.run.histogram import Histogram
from loadtest.run.plan import PROFILES, Plan, Stage, plan
from loadtest.run.recovery import effects
from loadtest.run.statistics import Statistics
from loadtest.run.warnings import warnings_of
from tests.load.conftest import ROOT


def test_percentiles_are_recorded_values() -> None:
    """They are exact below 16 ms and within one part in 8,192 above; the maximum is exact."""
    rng = Random(1)
    values = sorted(int(rng.lognormvariate(8, 2)) for _ in range(20_000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.5, 0.95, 0.99, 0.999):
        true = values[-(-int(share * 1e6) * len(values) // 10**6) - 1] / 1000
        (found,) = histogram.percentiles_ms(share)
        assert found is not None
        assert found == true if true < 16 else 0 <= true - found <= true / 8192
    assert histogram.max_ms == values[-1] / 1000
    assert Histogram().percentiles_ms(0.5) == [None]


def test_runs_that_start_at_once_have_masters_of_their_own(tmp_path: Path) -> None:
    """Neither has bound its port when the other chooses; with one port, they would share their workers."""
    planned = plan(Scenario.MIXED, Profile.SMOKE, seed=1)
    ports = set()
    for _ in range(2):
        command = locust_command(planned, "http://127.0.0.1:3000", tmp_path, 2, 0, None)
        ports.add(command[command.index("--master-bind-port") + 1])
    assert len(ports) == 2


@pytest.mark.parametrize("profile", Profile)
def test_arrivals_follow_the_levels(profile: Profile) -> None:
    """As many arrivals as planned, in order; each belongs to exactly one process."""
    planned = plan(Scenario.INGEST, profile, 1, rate=40, seconds=60)
    shares = [list(planned.arrivals(mine, 3)) for mine in range(3)]
    together = sorted(arrival for share in shares for arrival in share)
    assert together == list(planned.arrivals(0, 1))
    assert [number for number, _ in together] == list(range(len(together)))
    times = [at for _, at in together]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= planned.seconds + 1e-6
    for begin, stage in planned.timed():
        within = sum(begin <= at < begin + stage.seconds for at in times)
        assert within == pytest.approx(stage.seconds * (stage.begin + stage.end) / 2, abs=1.01)


@pytest.mark.parametrize(
    ("spacing", "variation"), [("uniform", 0), ("poisson", 1), ("gamma:0.25", 4), ("gamma:4", 0.25)]
)
def test_arrivals_are_as_far_apart_as_their_distribution_says(
    spacing: str, variation: float
) -> None:
    """The mean gap is that of the rate; the squared coefficient of variation is that of the distribution."""
    planned = plan(Scenario.INGEST, Profile.LOAD, 1, rate=200, seconds=130, spacing=spacing)
    shares = [list(planned.arrivals(mine, 2)) for mine in range(2)]
    arrivals = sorted(arrival for share in shares for arrival in share)
    assert arrivals == list(planned.arrivals(0, 1))
    held = [at for _, at in arrivals if at >= planned.window.from_s]
    gaps = [after - before for before, after in pairwise(held)]
    assert fmean(gaps) == pytest.approx(1 / 200, rel=0.05)
    assert pvariance(gaps) / fmean(gaps) ** 2 == pytest.approx(variation, rel=0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("spacing", "share_below_mean"),
    [("poisson", 1 - math.exp(-1)), ("gamma:2", 1 - 3 * math.exp(-2))],
)
def test_gaps_have_the_shape_of_their_distribution(spacing: str, share_below_mean: float) -> None:
    """How many are shorter than the mean, by the distribution function of the gamma distribution."""
    planned = plan(Scenario.INGEST, Profile.LOAD, 2, rate=200, seconds=130, spacing=spacing)
    held = [at for _, at in planned.arrivals(0, 1) if at >= planned.window.from_s]
    shorter = sum(after - before < 1 / 200 for before, after in pairwise(held))
    assert shorter / len(held) == pytest.approx(share_below_mean, abs=0.02)


def test_a_seed_determines_the_arrivals() -> None:
    """Another seed has others."""
    one, same, other = (
        list(plan(Scenario.MIXED, Profile.SMOKE, seed, rate=50, spacing="poisson").arrivals(0, 1))
        for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize("spacing", ["", "even", "gamma", "gamma:0", "gamma:-1", "gamma:nan"])
def test_an_unknown_distribution_is_refused(spacing: str) -> None:
    """The message names those that exist."""
    with pytest.raises(ValueError, match="is not uniform, poisson or gamma:SHAPE"):
        Spacing.parse(spacing)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (AbortLimit("p99", 50), "the p99 was 99.0 ms, above 50 ms"),
        (AbortLimit("p99", 99), None),
        (AbortLimit("errors", 0.01), "2.00% of the requests failed, above 1.00%"),
        (AbortLimit("errors", 0.02), None),
    ],
)
def test_a_limit_says_what_exceeds_it(limit: AbortLimit, said: str | None) -> None:
    """A value that equals the limit keeps it."""
    recent = replace(ROW, count=100, failures=2, p99_ms=99.0)
    assert limit.why_exceeded(recent) == said


@pytest.mark.parametrize(
    "text", ["kill:worker@20s", "stop:postgres@30s+5s", "hang:valkey@1.5s+0.25s", "kill:server@0s"]
)
def test_a_fault_is_read_as_it_is_written(text: str) -> None:
    """Its text is that of the report."""
    assert str(Fault.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kill:elasticsearch@20s", "elasticsearch can only hang"),
        ("stop:opensearch@20s+2s", "'opensearch' is no target"),
        ("burn:worker@20s", "is not a fault"),
        ("kill:worker", "is not a fault"),
        ("kill:worker@20s+5s", "is not a fault"),
        ("stop:worker@20s", "is not a fault"),
        ("hang:worker@20+5", "is not a fault"),
    ],
)
def test_what_is_no_fault_is_refused(text: str, said: str) -> None:
    """`kill` has no duration, the others have one; times have a unit."""
    with pytest.raises(ValueError, match=said):
        Fault.parse(text)


def test_the_effect_of_a_fault_ends_when_all_is_as_before() -> None:
    """Answering after 3 s, storing after 6 s, finding after 9 s; a good second between bad ones is no end."""
    p99s = [10.0] * 20 + [900.0, 12.0, 900.0] + [11.0] * 17
    stored = [None if at % 2 else 50.0 for at in range(20)] + [4_000.0] * 6 + [60.0] * 14
    failures = [0] * 20 + [7, 0, 0] + [0] * 17
    found = [70.0] * 20 + [6_000.0] * 9 + [80.0] * 11
    timeline = [
        Moment(
            *(at, 1, 1, failures[at]),
            p99_ms=p99s[at],
            stored_ms=stored[at],
            searchable_ms=found[at],
        )
        for at in range(40)
    ]
    (effect,) = effects([InjectedFault(Fault.parse("stop:postgres@20s+2s"), 20.01, 22.0)], timeline)
    assert (effect.failures, effect.highest_p99_ms) == (7, 900.0)
    assert (effect.answering_after_s, effect.storing_after_s) == (3, 6)
    assert effect.finding_after_s == 9


def test_an_effect_without_an_end_or_a_begin_is_unknown() -> None:
    """The next fault comes before all is as before, and before the first one nothing was measured."""
    timeline = [
        Moment(at_s=at, level=1, rate=1, failures=at % 2, p99_ms=5.0, stored_ms=5.0)
        for at in range(20)
    ]
    injected = [
        InjectedFault(Fault.parse(text), at, at)
        for text, at in (("kill:worker@0s", 0.0), ("kill:server@10s", 10.2))
    ]
    first, second = effects(injected, timeline)
    assert (first.answering_after_s, first.storing_after_s) == (None, None)
    assert (second.answering_after_s, second.storing_after_s) == (None, 0)
    assert (first.failures, second.failures) == (5, 5)


@pytest.mark.parametrize("profile", Profile)
def test_a_plan_survives_json_and_leaves_out_its_ramp(profile: Profile) -> None:
    """The measured window of every profile begins after the ramp-up."""
    planned = plan(Scenario.MIXED, profile, 3, rate=10)
    assert Plan.from_json(json.loads(json.dumps(planned.to_json()))) == planned
    assert 0 < planned.window.from_s < planned.window.to_s <= planned.seconds
    assert planned.seconds == pytest.approx(PROFILES[profile].seconds)
    assert planned.level(planned.seconds + 1) == 0


def test_the_model_is_closed_unless_there_is_a_rate() -> None:
    """`breakpoint` always has a rate."""
    assert plan(Scenario.MIXED, Profile.LOAD, 1).model is LoadModel.CLOSED
    assert plan(Scenario.MIXED, Profile.LOAD, 1, rate=5).model is LoadModel.OPEN
    assert plan(Scenario.MIXED, Profile.BREAKPOINT, 1).model is LoadModel.OPEN
    assert Stage(10, 0, 5).time_of(25) == pytest.approx(10)


def test_texts_are_of_many_languages_and_frequent_words_are_searched_more_often() -> None:
    """Lines in more than twenty languages; keywords follow Zipf's law; no mark contains another."""
    spoken = {language.name: language for language in languages()}
    assert len(spoken) > 20
    assert {"arabic", "hebrew", "hindi", "chinese", "english"} <= spoken.keys()
    rng = Random(1)
    english = spoken["english"]
    searched = [english.keyword(rng) for _ in range(5_000)]
    first, tenth = (searched.count(english.keywords[rank - 1]) for rank in (1, 10))
    assert 5 < first / tenth < 20
    for marks in (Marks(7), Marks(7, as_words=True)):
        assert marks.keyword in marks.mark("u1", 2)
        assert marks.keyword_of("u1", 2) in marks.mark("u1", 2)
        assert marks.keyword_of("u1", 2) not in marks.mark("u1", 21)
    assert Marks(-7, as_words=True).keyword.isalnum()
    assert english.text(Random(3), "~") == english.text(Random(3), "~")


def test_a_text_and_a_choice_consume_one_random_number_each() -> None:
    """Independent of the number of lines or messages, so later choices of a user do not depend on it."""
    for language in languages():
        for seed in range(20):
            used, spared = Random(seed), Random(seed)
            language.text(used, "~")
            spared.random()
            assert used.getstate() == spared.getstate()
    code = (  # in a process of its own, because importing Locust patches the standard library
        "import loadtest.users.chat_user as chat_user, random, types\n"
        "for own in range(1, 51):\n"
        "    used, spared = random.Random(own), random.Random(own)\n"
        "    user = types.SimpleNamespace(rng=used, _own_messages=range(own))\n"
        "    assert chat_user.ChatUser._random_own_index(user) == int(spared.random() * own)\n"
        "    assert used.getstate() == spared.getstate()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_keyword_can_be_searched_for() -> None:
    """None consists only of ignored characters, which the API would answer with 422."""
    for language in languages():
        assert language.keywords
        for keyword in language.keywords:
            assert fold_keyword(keyword)


def test_records_are_read_once_and_whole(tmp_path: Path) -> None:
    """Even if the reader sees a file that ends in the middle of a record."""
    recorder, reader = Recorder(), RequestReader(tmp_path)
    recorder.record_request(1.5, 1_234, 2, 202, False)
    recorder.record_request(2.5, 1 << 40, 3, 0, True)
    data = recorder.take()["requests"]
    append_records(tmp_path, "a", {"requests": data[:20]})
    first = list(reader.read_new())
    append_records(tmp_path, "a", {"requests": data[20:]})
    second = list(reader.read_new())
    assert [tuple(request) for request in first] == [(1.5, 1_234, 2, 202, False)]
    assert [tuple(request) for request in second] == [(2.5, 0xFFFFFFFF, 3, 0, True)]
    assert list(reader.read_new()) == []
    assert recorder.take() == {}


def test_breakpoint_is_the_highest_level_before_two_in_a_row_that_did_not_hold(
    tmp_path: Path,
) -> None:
    """A server that answers fifty requests a second in order: 48.8/s hold, 61/s do not."""
    planned = plan(Scenario.INGEST, Profile.BREAKPOINT, 1, rate=20, seconds=40)
    recorder, free = Recorder(), 0.0
    for _, at in planned.arrivals(0, 1):
        free = max(free, at) + 0.02
        recorder.record_request(at, int((free - at) * 1e6), SEND, 202, False)
    append_records(tmp_path, "a", recorder.take())
    statistics = Statistics(tmp_path, planned)
    statistics.read()
    found = statistics.breakpoint(planned.seconds, max_p99_ms=1_000, max_errors=0.01)
    assert found.level == pytest.approx(48.83, abs=0.01)
    assert [step.held for step in found.steps[:7]] == [True] * 5 + [False] * 2
    assert "answers fall behind" in found.steps[6].why
    course = statistics.timeline()  # counts answers in the second in which they came
    assert max(moment.rate for moment in course) == pytest.approx(50, abs=1)
    strict = statistics.breakpoint(planned.seconds, max_p99_ms=10, max_errors=0.01)
    assert strict.level is None
    assert strict.steps[0].why == "p99"
    assert statistics.breakpoint(0, 1_000, 0.01).steps == []


def test_each_level_of_stress_and_spike_has_its_own_figures(tmp_path: Path) -> None:
    """A spike with ten times the latency shows in its level; levels that did not begin are left out."""
    planned = plan(Scenario.INGEST, Profile.SPIKE, 1, rate=100, seconds=60)
    recorder = Recorder()
    ramp, *held = planned.timed()
    for _, at in planned.arrivals(0, 1):
        amid = held[1][0] <= at < held[2][0]
        recorder.record_request(at, 50_000 if amid else 5_000, SEND, 202, False)
    append_records(tmp_path, "a", recorder.take())
    statistics = Statistics(tmp_path, planned)
    statistics.read()
    found = statistics.levels(60.0)
    assert [round(level.level) for level in found] == [10, 100, 10]
    assert [level.requests.p50_ms for level in found] == [5.0, 50.0, 5.0]
    assert [level.requests.rate for level in found] == pytest.approx([10, 100, 10], rel=0.02)
    assert found[0].from_s == ramp[1].seconds
    cut = held[1][0] + 1
    assert [level.to_s for level in statistics.levels(cut)][1:] == pytest.approx([cut], abs=0.01)
    assert Statistics(tmp_path, plan(Scenario.INGEST, Profile.LOAD, 1)).levels(60.0) == []


def test_streams_of_followers_are_in_no_total(tmp_path: Path) -> None:
    """They have a row of their own. Beside a planned load they would hide that it was not held."""
    planned = plan(Scenario.FOLLOWERS, Profile.SMOKE, 1, rate=10, seconds=10)
    recorder = Recorder()
    for tenth in range(100):
        recorder.record_request(tenth / 10, 5_000, SEND, 202, False)
        recorder.record_request(tenth / 10, 900_000, FOLLOW, 503, True)
    append_records(tmp_path, "a", recorder.take())
    statistics = Statistics(tmp_path, planned)
    statistics.read()
    sent, streams = statistics.routes(8)
    assert (sent.count, streams.count, streams.failures) == (80, 80, 80)
    total = statistics.total(8)
    assert (total.count, total.failures, total.max_ms) == (80, 0, 5.0)
    assert {(moment.rate, moment.failures) for moment in statistics.timeline()} == {(10.0, 0)}


def test_deliveries_are_measured_in_the_window_and_by_second(tmp_path: Path) -> None:
    """Percentiles of what was answered within the window; a median of each second of the run."""
    recorder = Recorder()
    for tenth in range(100):
        recorder.record_delivery(tenth / 10, tenth * 1_000)
    append_records(tmp_path, "a", recorder.take())
    found = Deliveries(tmp_path, Window(2.0, 10.0))
    assert found.spread(missed=3) == Spread(80, 59.0, 95.0, 99.0, 99.0, missed=3)
    assert found.medians_ms() == {second: second * 10 + 4.0 for second in range(10)}


ROW = Row("all", 900, 90.0, 1.0, 2.0, 3.0, 4.0, 9, 3, {"500": 9})
SPREAD = Spread(10, 1.0, 2.0, 3.0, 4.0)
RESULT = Result(
    scenario="mixed",
    profile="smoke",
    model=LoadModel.OPEN,
    seed=1,
    users=5,
    rate=90.0,
    processes=1,
    started_at="2026-01-01T00:00:00Z",
    duration_s=12.0,
    window=Window(2.0, 12.0),
    host="http://127.0.0.1:3000",
    private=True,
    interrupted=False,
    requests=[ROW],
    total=ROW,
    lag_ms=Lags(SPREAD, SPREAD),
    cpu=Cpu(0.5, 0.9, 0.5, 1.5, 2),
    memory_mb=Memory(50.0, 300.0),
    audit=Audit(answered=10, stored=10, searchable=10, chats=ChatAudit(2, 2)),
    thresholds=[Threshold("p99", 50.0, 3.0, True)],
    levels=[Level(90.0, 2.0, 12.0, ROW)],
    timeline=[Moment(float(at), 90.0, 90.0, 0) for at in range(12)],
)


def test_a_result_survives_json() -> None:
    """`loads` returns what `dumps` has written, and rejects other JSON."""
    assert loads(dumps(RESULT)) == RESULT
    audit = replace(RESULT.audit, pages=PageAudit(5, 2), deliveries=DeliveryAudit(20, 1))
    more = replace(RESULT, audit=audit, lag_ms=Lags(SPREAD, SPREAD, SPREAD))
    assert loads(dumps(more)) == more
    older = json.loads(dumps(RESULT))
    del older["audit"]["pages"], older["audit"]["deliveries"], older["lag_ms"]["delivered"]
    assert Result.from_json(older) == RESULT
    for other in ('{"version": 2}', "[]", '{"version": 1}', "1"):
        with pytest.raises(ValueError, match="not the result of a run"):
            loads(other)


def test_each_problem_is_reported() -> None:
    """Each kind of fault of the audit, and each missed threshold."""
    assert RESULT.problems == []
    bad = replace(
        RESULT,
        audit=replace(
            RESULT.audit,
            lost=2,
            wrong_text=1,
            pages=PageAudit(read=9, not_modified=4, stale=1),
            deliveries=DeliveryAudit(received=30, missed=2, reordered=1),
        ),
        thresholds=[Threshold("errors", 0.001, 0.01, False), Threshold("p99", 5.0, None, False)],
    )
    assert bad.problems == [
        "2 lost",
        "1 wrong text",
        "1 pages stale",
        "2 deliveries missed",
        "1 deliveries reordered",
        "1.00% failed, at most 0.10% may",
        "p99 is unknown, at most 5 ms is allowed",
    ]


@pytest.mark.parametrize(
    ("cpu", "rate", "said"),
    [
        (Cpu(0.5, 0.9, 0.5, 1.5, 2), 90.0, []),
        (Cpu(0.95, 0.5, 0.95, 1.5, 2), 90.0, ["the generator was the limit"]),
        (Cpu(0.8, 1.2, 0.8, 1.99, 2), 90.0, ["all 2 processors"]),
        (Cpu(0.1, 0.9, 0.1, 1.8, 2), 90.0, ["others used 0.8 of the 2 processors"]),
        (Cpu(0.1, None, 0.1, 1.8, 2), 90.0, []),
        (Cpu(0.5, 0.9, 0.5, 1.5, 2), 60.0, ["60 of 90 arrivals"]),
    ],
)
def test_unreliable_figures_have_a_warning(cpu: Cpu, rate: float, said: list[str]) -> None:
    """A busy generator, other programs, a full machine, or a rate that was not held."""
    planned = plan(Scenario.MIXED, Profile.SMOKE, 1, rate=90, seconds=12)
    found = warnings_of(replace(RESULT, cpu=cpu, total=replace(ROW, rate=rate)), planned)
    assert len(found) == len(said)
    assert all(beginning in warning for beginning, warning in zip(said, found, strict=True))


@pytest.mark.parametrize(("rate", "said"), [(279.0, False), (270.0, True)])
def test_a_spike_that_was_held_has_no_warning(rate: float, said: bool) -> None:
    """The planned rate is computed from the levels, which begin and end within a second."""
    planned = plan(
        Scenario.MIXED, Profile.SPIKE, 1, rate=700, seconds=15
    )  # 70, 700, 70: 280 on average
    found = warnings_of(replace(RESULT, total=replace(ROW, rate=rate)), planned)
    assert any("arrivals a second were served" in warning for warning in found) == said
