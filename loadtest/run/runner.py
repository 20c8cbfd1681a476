"""One run, from the first request to the audited result."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from loadtest.adapter.adapter import ServerAdapter, default_adapter
from loadtest.audit.audit import PATIENCE_SECONDS, audit
from loadtest.corpus.adapter_check import check_adapter
from loadtest.corpus.fixtures import Fixtures, remove
from loadtest.corpus.preload import NO_PRELOAD
from loadtest.corpus.texts import languages
from loadtest.errors import Unusable
from loadtest.recording import ROUTE_OF, ROUTES
from loadtest.report.result import (
    Audit,
    Breakpoint,
    LoadModel,
    OtherServer,
    Profile,
    Result,
    Threshold,
    Window,
)
from loadtest.run import installation
from loadtest.run.abort import JUDGED_SECONDS, AbortLimit
from loadtest.run.deliveries import Deliveries
from loadtest.run.faults import Fault, FaultInjector, FindProcesses, InjectedFault
from loadtest.run.generator import Generator
from loadtest.run.hdr_log import log_lines
from loadtest.run.local_processes import server_processes
from loadtest.run.needs import left_out
from loadtest.run.plan import Plan
from loadtest.run.profiler import PROFILED, Profiler, profiler_program
from loadtest.run.progress import PROGRESS_SECONDS, describe_load, progress_line
from loadtest.run.recovery import effects
from loadtest.run.resource_monitor import ResourceMonitor
from loadtest.run.sampler import Sampler
from loadtest.run.statistics import Statistics
from loadtest.run.steadiness import trends
from loadtest.run.timeline import timeline
from loadtest.run.warnings import warnings_of
from loadtest.web import ApiClient

POLL_SECONDS = 0.2
END_TIMEOUT_SECONDS = 90.0  # after the planned end; a Locust that still runs then hangs
FLUSH_DELAY_SECONDS = 3.0  # until all requests of a second are on disk
MAX_P99_MS, MAX_ERRORS = 100.0, 0.01  # the default limits of a step of `breakpoint`

OnProgress = Callable[[str], object]


@dataclass(frozen=True)
class RunOptions:
    """What to run, against which server, and which limits the result has to keep."""

    plan: Plan
    host: str | None = None  # None: a private installation
    adapter: ServerAdapter | None = None  # of the host; None: it has this project's API
    preload: int = 0  # messages that a private installation has before the load
    processes: int = 1
    workers: int = 0  # Locust workers that are started elsewhere
    web: bool = False
    keep: bool = False  # the applications, on a server that is not private
    max_p99_ms: float | None = None
    max_errors: float | None = MAX_ERRORS
    patience: float = PATIENCE_SECONDS
    abort_on: tuple[AbortLimit, ...] = ()
    faults: tuple[Fault, ...] = ()  # only of a private installation
    elasticsearch_url: str | None = None  # of a private installation; None: PostgreSQL searches
    profile: bool = False  # the server and the worker, which run on this machine
    facts: dict[str, str] = field(default_factory=dict)


def run_load(
    options: RunOptions,
    on_progress: OnProgress,
    private: installation.PrivateInstallation | None = None,
) -> Result:
    """Make the load, audit it, and return the result.

    Without a host it loads the given private installation, or else one that it starts and removes. The
    first KeyboardInterrupt stops the load and audits what was sent until then; a second one is raised to the
    caller. Raises CouldNotRun if nothing could be measured.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_temporary_folder())
        host = options.host
        if host is None:
            if private is None:
                on_progress("starting a private installation")
                private = stack.enter_context(
                    installation.private_installation(elasticsearch_url=options.elasticsearch_url)
                )
                if options.preload:
                    _preload(private, options, on_progress)
            host = private.host
        client = ApiClient(host, options.adapter or default_adapter())
        client.check_reachable()
        if options.adapter:
            on_progress("trying each kind of request of the adapter")
            check_adapter(client)
        find: FindProcesses = private.processes_of if private else lambda _: []
        if options.profile:
            profiler_program()
            find = find if private else server_processes(host)
        run = _Run(options, host, client, folder, private, find, on_progress)
        stack.callback(run.generator.kill)
        return run.execute()


def _preload(
    private: installation.PrivateInstallation, options: RunOptions, on_progress: OnProgress
) -> None:
    on_progress(f"importing {options.preload:,} messages")
    since = time.monotonic()
    private.import_messages(options.preload, options.plan.seed)
    on_progress(f"imported {options.preload:,} messages in {time.monotonic() - since:.0f} s")


@dataclass(frozen=True)
class _Recorded:
    """What the processes of a run have recorded until the load ended."""

    fixtures: Fixtures
    started: datetime
    seconds: float  # how long the load lasted
    statistics: Statistics
    monitor: ResourceMonitor
    sampler: Sampler
    faults: list[InjectedFault]
    profiles: list[Profile]
    warnings: list[str]


class _Run:
    def __init__(
        self,
        options: RunOptions,
        host: str,
        client: ApiClient,
        folder: Path,
        private: installation.PrivateInstallation | None,
        find: FindProcesses,
        on_progress: OnProgress,
    ) -> None:
        self._options, self._host, self._client, self._folder = options, host, client, folder
        self._private, self._find, self._on_progress = private, find, on_progress
        self._plan = options.plan
        self._interrupted = False
        self._breakpoint_found = False
        self._aborted: str | None = None
        self._fixtures = Fixtures([], [])
        self.generator = Generator(
            folder,
            options.plan,
            host,
            client.adapter,
            processes=options.processes,
            workers=options.workers,
            web=options.web,
            preload=private.preload if private else NO_PRELOAD,
        )

    def execute(self) -> Result:
        """Wait for the fixtures, watch the load, audit it, and assemble the result.

        Then the fixtures are removed from a server that goes on, whatever came of the run.
        """
        try:
            return self._execute()
        finally:
            if self._options.host is not None and not self._options.keep:
                self._remove_fixtures()

    def _remove_fixtures(self) -> None:
        self.generator.kill()  # nothing may be sent to what is deleted
        if left := remove(self._client, self._fixtures):
            self._on_progress(f"{left} applications named `load N` are left on {self._host}")

    def _execute(self) -> Result:
        recorded = self._load()
        self._on_progress("auditing: comparing every answered number with what is stored and found")
        audited = audit(
            self._client,
            self._folder,
            recorded.fixtures,
            self._plan.seed,
            self._options.patience,
        )
        result = self._result(recorded, audited)
        return replace(
            result,
            thresholds=self._thresholds(result),
            warnings=[*recorded.warnings, *warnings_of(result, self._plan)],
        )

    def _load(self) -> _Recorded:
        plan = self._plan
        if self.generator.web_url:
            self._on_progress(f"Locust's page is at {self.generator.web_url}")
        if self._options.workers:
            self._on_progress(f"waiting for {self._options.workers} Locust workers")
        self._on_progress("Locust is starting and creates the applications and chats")
        languages()  # the sampler needs the corpus; reading it takes a while, so do it while Locust starts
        start_info = self.generator.wait_begin()
        started, begin = datetime.now(UTC), start_info["begin"]
        fixtures = self._fixtures = Fixtures.from_json(start_info["fixtures"])
        self._on_progress(
            f"{plan.scenario}, {plan.profile}: {describe_load(plan)}, for {plan.seconds:g} s, seed"
            f" {plan.seed}; {len(fixtures.chats):,} chats"
        )
        statistics = Statistics(self._folder, plan)
        servers = self._private.processes if self._private else None
        monitor = ResourceMonitor(self.generator.pid, servers, begin)
        sampler = Sampler(self._client, fixtures, plan, self._folder, begin, self._options.patience)
        faults = self._inject_faults(begin)
        profiler = Profiler(
            PROFILED if self._options.profile else (),
            self._find,
            self._folder,
            plan.window,
            begin,
            self._on_progress,
        )
        try:
            self._watch_load(statistics, begin)
            faults.stop()
            sampler.stop()
        except BaseException:
            sampler.abort()
            raise
        finally:
            faults.stop()
            monitor.stop()
            profiler.stop()
        self.generator.check()
        statistics.read()
        seconds = plan.seconds
        ended_itself = self._breakpoint_found or self._aborted
        if time.monotonic() - begin < seconds and not ended_itself:
            self._interrupted = True  # perhaps by the stop button on Locust's page
        if self._is_cut_short:  # the load lasted until its last request began
            seconds = min(statistics.newest_s, seconds)
        return _Recorded(
            *(fixtures, started, seconds, statistics, monitor, sampler),
            faults=faults.injected,
            profiles=profiler.profiles,
            warnings=profiler.problems,
        )

    def _inject_faults(self, begin: float) -> FaultInjector:
        return FaultInjector(self._options.faults, self._find, begin, self._on_progress)

    def _watch_load(self, statistics: Statistics, begin: float) -> None:
        """Report progress until the load is over.

        Stops it on Ctrl-C, beyond a limit of --abort-on, and when two steps of `breakpoint` in a row did not
        hold.
        """
        progress_at = 0
        while self.generator.running:
            try:
                time.sleep(POLL_SECONDS)
                statistics.read()
                now = time.monotonic() - begin
                if now > self._plan.seconds + END_TIMEOUT_SECONDS:
                    raise Unusable("Locust did not end and was killed; there is no result")
                if statistics.seconds - progress_at > PROGRESS_SECONDS:
                    progress_at = statistics.seconds
                    self._on_progress(progress_line(self._plan, statistics, now))
                found = self._breakpoint(statistics, now - FLUSH_DELAY_SECONDS)
                if found and len(found.steps) > 1 and not any(s.held for s in found.steps[-2:]):
                    self._breakpoint_found = True
                    self.generator.stop()
                elif not self._aborted and (why := self._why_hopeless(statistics)):
                    self._aborted = why
                    self._on_progress(f"{why}: stopping, then everything sent is audited")
                    self.generator.stop()
            except KeyboardInterrupt:
                if self._interrupted:
                    raise
                self._interrupted = True
                self._on_progress(
                    "stopping: requests under way are finished, then everything sent is audited"
                )
                self.generator.stop()

    @property
    def _is_cut_short(self) -> bool:
        return bool(self._interrupted or self._breakpoint_found or self._aborted)

    @property
    def _is_level_constant(self) -> bool:
        held = [stage for stage in self._plan.stages if stage.measured]
        return len(held) == 1 and not self._options.faults

    def _why_hopeless(self, statistics: Statistics) -> str | None:
        """Why a limit of --abort-on ends the run now, in words."""
        second = statistics.seconds - 1  # the newest one, which is not whole yet
        if second - JUDGED_SECONDS < self._plan.window.from_s:
            return None
        recent = statistics.recent(JUDGED_SECONDS)
        found = (limit.why_exceeded(recent) for limit in self._options.abort_on)
        why = next(filter(None, found), None)
        return why and f"aborted after {second} s: of the last {JUDGED_SECONDS} s, {why}"

    def _result(self, recorded: _Recorded, audited: Audit) -> Result:
        plan, fixtures, seconds = self._plan, recorded.fixtures, recorded.seconds
        statistics, monitor, sampler = recorded.statistics, recorded.monitor, recorded.sampler
        window = plan.window
        if self._is_cut_short:
            window = Window(min(window.from_s, seconds), min(window.to_s, seconds))
        measured = window.to_s - window.from_s
        deliveries = Deliveries(self._folder, window)
        moments = timeline(statistics, sampler.samples, monitor.readings, deliveries.medians_ms())
        moments = [moment for moment in moments if moment.at_s < seconds]
        lags = sampler.lags(window)
        if audited.deliveries:
            lags = replace(lags, delivered=deliveries.spread(audited.deliveries.missed))
        return Result(
            scenario=plan.scenario,
            profile=plan.profile,
            model=plan.model,
            seed=plan.seed,
            users=plan.users,
            rate=plan.highest if plan.model is LoadModel.OPEN else None,
            processes=self._options.workers or self._options.processes,
            started_at=recorded.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            duration_s=round(seconds, 2),
            window=window,
            host=self._host,
            private=self._options.host is None,
            interrupted=self._interrupted,
            requests=statistics.routes(measured),
            total=statistics.total(measured),
            lag_ms=lags,
            cpu=monitor.cpu(window),
            memory_mb=monitor.memory(window),
            audit=audited,
            breakpoint=self._breakpoint(statistics, seconds),
            levels=statistics.levels(seconds),
            timeline=moments,
            facts=self._options.facts | {"ground": _ground(fixtures)},
            planned_s=round(plan.seconds, 2),
            latencies=statistics.latencies(),
            histogram_log=tuple(log_lines(recorded.started, statistics.intervals(window))),
            chats=len(fixtures.chats),
            preload=fixtures.preload.messages,
            arrivals=plan.spacing if plan.model is LoadModel.OPEN else None,
            aborted=self._aborted,
            faults=effects(recorded.faults, moments),
            trends=trends(moments, window, plan.model) if self._is_level_constant else [],
            profiles=recorded.profiles,
            other=_other_server(self._options.adapter),
        )

    def _breakpoint(self, statistics: Statistics, now: float) -> Breakpoint | None:
        if not self._plan.is_breakpoint:
            return None
        p99, errors = self._options.max_p99_ms, self._options.max_errors
        return statistics.breakpoint(
            now, MAX_P99_MS if p99 is None else p99, MAX_ERRORS if errors is None else errors
        )

    def _thresholds(self, result: Result) -> list[Threshold]:
        """The limits that the run as a whole has to keep.

        `breakpoint` has none: its limits apply to each step, and it exceeds them on purpose.
        """
        unmeasured = result.interrupted and not result.total.count  # a warning reports that
        if self._plan.is_breakpoint or unmeasured:
            return []
        total, thresholds = result.total, []
        if (p99 := self._options.max_p99_ms) is not None:
            kept = total.p99_ms is not None and total.p99_ms <= p99
            thresholds.append(Threshold(name="p99", limit=p99, found=total.p99_ms, kept=kept))
        if (errors := self._options.max_errors) is not None:
            share = total.error_share if total.count else None
            kept = share is not None and share <= errors
            thresholds.append(Threshold(name="errors", limit=errors, found=share, kept=kept))
        return thresholds


def _other_server(adapter: ServerAdapter | None) -> OtherServer | None:
    """What a report says of a server with another API."""
    if adapter is None:
        return None
    requests = {
        ROUTES[route]: adapter.endpoint(operation).request
        for operation, route in ROUTE_OF.items()
        if operation in adapter
    }
    return OtherServer(adapter.name, requests, left_out(adapter))


def _ground(fixtures: Fixtures) -> str:
    """What there was at the begin of the load, in words."""
    own = f"{len(fixtures.chats):,} chats of {len(fixtures.tokens):,} applications"
    count = fixtures.preload.messages
    return f"{own}; {count:,} messages of others" if count else own


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="instachat-load-run-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
