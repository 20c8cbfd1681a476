"""One run, from the first request to the audit: who does what when, and what it comes to."""

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil

from loadtest.audit.audit import PATIENCE_SECONDS, audit
from loadtest.corpus.fixtures import Fixtures
from loadtest.corpus.texts import languages
from loadtest.errors import Unusable
from loadtest.report.result import Breakpoint, Model, Moment, Result, Threshold, Window
from loadtest.run import installation
from loadtest.run.generator import Generator
from loadtest.run.plan import Plan
from loadtest.run.resource_monitor import ResourceMonitor
from loadtest.run.sampler import Sample, Sampler
from loadtest.run.statistics import Statistics
from loadtest.web import ApiClient

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5
END_TIMEOUT_SECONDS = 90.0  # after the plan's end: then Locust hangs
FLUSH_DELAY_SECONDS = 3.0  # after which the requests of a second are on disk
BUSY_SHARE = 0.9  # of a processor, by one process of the generator: then it is the limit
FULL_SHARE = 0.95  # of all processors
MIN_HELD_SHARE = 0.99  # of the arrivals that were due: of fewer the p99 says nothing
DISTURBED_SHARE = (
    0.1  # of all processors, by others: more than this process itself takes for its samples
)
MAX_P99_MS, MAX_ERRORS = 100.0, 0.01  # what a step of `breakpoint` has to keep, if nothing is said

OnProgress = Callable[[str], object]


@dataclass(frozen=True)
class RunOptions:
    """What to run, where, and what is good enough."""

    plan: Plan
    host: str | None = None  # None: a private installation
    processes: int = 1
    workers: int = 0  # of Locust, started elsewhere
    web: bool = False
    max_p99_ms: float | None = None
    max_errors: float | None = MAX_ERRORS
    patience: float = PATIENCE_SECONDS
    facts: dict[str, str] = field(default_factory=dict)


def run(options: RunOptions, on_progress: OnProgress) -> Result:
    """Make the load, audit it, and say what was found.

    The first KeyboardInterrupt ends the load in good order, and what there is is audited; the next one
    passes. Raises CouldNotRun where nothing could be found out.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        servers, host = None, options.host
        if host is None:
            on_progress("starting a private installation")
            private = stack.enter_context(installation.private_installation())
            host, servers = private.host, private.processes
        client = ApiClient(host)
        client.check_reachable()
        run_ = _Run(options, host, client, folder, servers, on_progress)
        stack.callback(run_.generator.kill)
        return run_.execute()


class _Run:
    def __init__(
        self,
        options: RunOptions,
        host: str,
        client: ApiClient,
        folder: Path,
        servers: "Callable[[], list[psutil.Process]] | None",
        on_progress: OnProgress,
    ) -> None:
        self._options, self._host, self._client, self._folder = options, host, client, folder
        self._servers, self._on_progress = servers, on_progress
        self._plan = options.plan
        self._interrupted = False
        self._breakpoint_found = False  # a breakpoint was found
        self.generator = Generator(
            folder,
            options.plan,
            host,
            processes=options.processes,
            workers=options.workers,
            web=options.web,
        )

    def execute(self) -> Result:
        """From the fixtures to the result."""
        plan = self._plan
        if self.generator.web_url:
            self._on_progress(f"Locust's page is at {self.generator.web_url}")
        if self._options.workers:
            self._on_progress(f"waiting for {self._options.workers} Locust workers")
        self._on_progress("Locust starts, and creates the applications and chats")
        languages()  # meanwhile: reading the corpus takes a while, and the sampler needs it
        start_info = self.generator.wait_begin()
        started, begin = datetime.now(UTC), start_info["begin"]
        fixtures = Fixtures.from_json(start_info["fixtures"])
        self._on_progress(
            f"{plan.scenario}, {plan.profile}: {_model_text(plan)}, for {plan.seconds:g} s, seed {plan.seed};"
            f" {len(fixtures.chats):,} chats"
        )
        statistics = Statistics(self._folder, plan)
        monitor = ResourceMonitor(self.generator.pid, self._servers, begin)
        sampler = Sampler(self._client, fixtures, plan, self._folder, begin, self._options.patience)
        try:
            self._monitor_load(statistics, begin)
            sampler.stop()
        except BaseException:
            sampler.abort()
            raise
        finally:
            monitor.stop()
        self.generator.check()
        statistics.read()
        ran = plan.seconds
        if time.monotonic() - begin < ran and not self._breakpoint_found:
            self._interrupted = True  # also by the button of Locust's page
        if (
            self._interrupted or self._breakpoint_found
        ):  # then it went on until the last request began
            ran = min(statistics.newest_s, ran)
        self._on_progress("auditing: every answered number against what is stored and found")
        found = audit(self._client, self._folder, fixtures, plan.seed, self._options.patience)

        window = plan.window
        if self._interrupted or self._breakpoint_found:
            window = Window(min(window.from_s, ran), min(window.to_s, ran))
        measured = window.to_s - window.from_s
        result = Result(
            scenario=plan.scenario,
            profile=plan.profile,
            model=plan.model,
            seed=plan.seed,
            users=plan.users,
            rate=plan.highest if plan.model is Model.OPEN else None,
            processes=self._options.workers or self._options.processes,
            started_at=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            duration_s=round(ran, 2),
            window=window,
            host=self._host,
            private=self._options.host is None,
            interrupted=self._interrupted,
            requests=statistics.routes(measured),
            total=statistics.total(measured),
            lag_ms=sampler.lags(window),
            cpu=monitor.cpu(window),
            memory_mb=monitor.memory(window),
            audit=found,
            breakpoint=self._breakpoint(statistics, ran),
            levels=statistics.levels(ran),
            timeline=[m for m in _timeline(statistics, sampler, monitor) if m.at_s < ran],
            facts=self._options.facts
            | {"ground": f"{len(fixtures.chats):,} chats of {len(fixtures.tokens):,} applications"},
            planned_s=round(plan.seconds, 2),
            chats=len(fixtures.chats),
        )
        return replace(
            result, thresholds=self._thresholds(result), warnings=_warnings(result, plan)
        )

    def _monitor_load(self, statistics: Statistics, begin: float) -> None:
        """Until the load is over: tell how it goes; stop it if somebody wants that, or all is known."""
        progress_at = 0
        while self.generator.running:
            try:
                time.sleep(POLL_SECONDS)
                statistics.read()
                now = time.monotonic() - begin
                if now > self._plan.seconds + END_TIMEOUT_SECONDS:
                    raise Unusable("Locust does not end; it was killed, and nothing is known")
                if statistics.seconds - progress_at > PROGRESS_SECONDS:
                    progress_at = statistics.seconds
                    self._on_progress(_progress(self._plan, statistics, now))
                found = self._breakpoint(statistics, now - FLUSH_DELAY_SECONDS)
                if found and len(found.steps) > 1 and not any(s.held for s in found.steps[-2:]):
                    self._breakpoint_found = True
                    self.generator.stop()
            except KeyboardInterrupt:
                if self._interrupted:
                    raise
                self._interrupted = True
                self._on_progress(
                    "stopping: requests under way are finished, then what there is is audited"
                )
                self.generator.stop()

    def _breakpoint(self, statistics: Statistics, now: float) -> Breakpoint | None:
        if self._plan.profile != "breakpoint":
            return None
        p99, errors = self._options.max_p99_ms, self._options.max_errors
        return statistics.breakpoint(
            now, MAX_P99_MS if p99 is None else p99, MAX_ERRORS if errors is None else errors
        )

    def _thresholds(self, result: Result) -> list[Threshold]:
        """The bars of a run; those of `breakpoint` are of its steps, beyond which it goes on purpose."""
        unmeasured = result.interrupted and not result.total.count  # a warning says so
        if self._plan.profile == "breakpoint" or unmeasured:
            return []
        total, bars = result.total, []
        if (p99 := self._options.max_p99_ms) is not None:
            kept = total.p99_ms is not None and total.p99_ms <= p99
            bars.append(Threshold("p99", p99, total.p99_ms, kept))
        if (errors := self._options.max_errors) is not None:
            share = total.error_share if total.count else None
            bars.append(Threshold("errors", errors, share, share is not None and share <= errors))
        return bars


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="instachat-load-run-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _model_text(plan: Plan) -> str:
    if plan.profile == "breakpoint":
        return f"open model, from {plan.stages[0].begin:g} arrivals a second upwards"
    if plan.model is Model.OPEN:
        return f"open model, {plan.highest:g} arrivals a second at the highest"
    return f"closed model, {plan.users:,} users at the highest, each waiting for its answers"


def _progress(plan: Plan, statistics: Statistics, now: float) -> str:
    recent = statistics.recent(PROGRESS_SECONDS)
    p99 = "-" if recent.p99_ms is None else f"{recent.p99_ms:.1f} ms"
    level = f"{plan.level(now):,.0f} " + ("/s" if plan.model is Model.OPEN else "users")
    return (
        f"{now:4.0f} s  {level:>10}  {recent.rate:8,.0f}/s  p99 {p99:>9}  {recent.failures} failed"
    )


def _timeline(statistics: Statistics, sampler: Sampler, monitor: ResourceMonitor) -> list[Moment]:
    """Requests, samples and readings, second by second."""
    readings = {int(reading.at_s): reading for reading in monitor.readings}
    sampled: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in sampler.samples:
        sampled[int(sample.at_s)].append(sample)
    moments = []
    for moment in statistics.timeline():
        samples, reading = sampled[int(moment.at_s)], readings.get(int(moment.at_s))
        moments.append(
            replace(
                moment,
                stored_ms=_median([s.stored_ms for s in samples]),
                searchable_ms=_median([s.searchable_ms for s in samples]),
                cpu_generator=reading and reading.generator,
                cpu_servers=reading and reading.servers,
                memory_servers_mb=reading and reading.servers_mb,
            )
        )
    return moments


def _median(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return round(median(present), 3) if present else None


def _warnings(result: Result, plan: Plan) -> list[str]:
    """What makes the figures worth less."""
    cpu, warnings = result.cpu, []
    if cpu.busiest >= BUSY_SHARE:
        warnings.append(
            f"the generator was the limit: one of its processes used {cpu.busiest:.0%} of a processor;"
            " more --processes, or workers on other machines, would send more"
        )
    others = cpu.machine - cpu.generator - (cpu.servers or 0)
    if cpu.machine >= FULL_SHARE * cpu.processors:
        whom = "others" if cpu.servers is not None else "others, perhaps the servers"
        warnings.append(
            f"all {cpu.processors} processors of this machine were busy: {cpu.generator:.1f} of them with"
            f" the generator, {others:.1f} with {whom}; alone, the servers would do more"
        )
    elif cpu.servers is not None and others >= DISTURBED_SHARE * cpu.processors:
        warnings.append(
            f"others used {others:.1f} of the {cpu.processors} processors meanwhile: the figures are of"
            " what they left"
        )
    if plan.model is Model.OPEN and plan.profile != "breakpoint" and not result.interrupted:
        held = [stage for stage in plan.stages if stage.measured]
        wanted = sum(s.arrivals(s.seconds) for s in held) / sum(s.seconds for s in held)
        if result.total.rate < MIN_HELD_SHARE * wanted:
            warnings.append(
                f"{result.total.rate:,.0f} of {wanted:,.0f} arrivals a second were served: the rate was"
                " not held, and latencies count from when each was due"
            )
    if not result.total.count:
        warnings.append("nothing was measured: the run ended before its window began")
    return warnings
