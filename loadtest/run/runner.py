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

from loadtest.audit.audit import PATIENCE, audit
from loadtest.corpus.fixtures import Ground
from loadtest.corpus.texts import tongues
from loadtest.errors import Unusable
from loadtest.report.result import Breakpoint, Model, Moment, Result, Threshold, Window
from loadtest.run import installation
from loadtest.run.generator import Generator
from loadtest.run.plan import Plan
from loadtest.run.resource_monitor import Meter
from loadtest.run.sampler import Sample, Sampler
from loadtest.run.statistics import Tally
from loadtest.web import Web

TICK_SECONDS = 0.2
TELL_SECONDS = 5
ENDS_WITHIN = 90.0  # after the plan's end: then Locust hangs
WRITTEN_SECONDS = 3.0  # after which the requests of a second are on disk
BUSY = 0.9  # of a processor, by one process of the generator: then it is the limit
FULL = 0.95  # of all processors
HELD = 0.99  # of the arrivals that were due: of fewer the p99 says nothing
DISTURBED = 0.1  # of all processors, by others: more than this process itself takes for its samples
MAX_P99_MS, MAX_ERRORS = 100.0, 0.01  # what a step of `breakpoint` has to keep, if nothing is said

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Wish:
    """What to run, where, and what is good enough."""

    plan: Plan
    host: str | None = None  # None: a private installation
    processes: int = 1
    workers: int = 0  # of Locust, started elsewhere
    web: bool = False
    max_p99_ms: float | None = None
    max_errors: float | None = MAX_ERRORS
    patience: float = PATIENCE
    facts: dict[str, str] = field(default_factory=dict)


def run(wish: Wish, tell: Tell) -> Result:
    """Make the load, audit it, and say what was found.

    The first KeyboardInterrupt ends the load in good order, and what there is is audited; the next one
    passes. Raises CouldNotRun where nothing could be found out.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        servers, host = None, wish.host
        if host is None:
            tell("starting a private installation")
            site = stack.enter_context(installation.private())
            host, servers = site.host, site.processes
        web = Web(host)
        web.reach()
        run_ = _Run(wish, host, web, folder, servers, tell)
        stack.callback(run_.generator.kill)
        return run_.follow()


class _Run:
    def __init__(
        self,
        wish: Wish,
        host: str,
        web: Web,
        folder: Path,
        servers: "Callable[[], list[psutil.Process]] | None",
        tell: Tell,
    ) -> None:
        self._wish, self._host, self._web, self._folder = wish, host, web, folder
        self._servers, self._tell = servers, tell
        self._plan = wish.plan
        self._interrupted = False
        self._over = False  # a breakpoint was found
        self.generator = Generator(
            folder,
            wish.plan,
            host,
            processes=wish.processes,
            workers=wish.workers,
            web=wish.web,
        )

    def follow(self) -> Result:
        """From the ground to the result."""
        plan = self._plan
        if self.generator.web_url:
            self._tell(f"Locust's page is at {self.generator.web_url}")
        if self._wish.workers:
            self._tell(f"waiting for {self._wish.workers} Locust workers")
        self._tell("Locust starts, and creates the applications and chats")
        tongues()  # meanwhile: reading the corpus takes a while, and the sampler needs it
        news = self.generator.await_begin()
        started, begin = datetime.now(UTC), news["begin"]
        ground = Ground.load(news["ground"])
        self._tell(
            f"{plan.scenario}, {plan.profile}: {_model(plan)}, for {plan.seconds:g} s, seed {plan.seed};"
            f" {len(ground.chats):,} chats"
        )
        tally = Tally(self._folder, plan)
        meter = Meter(self.generator.pid, self._servers, begin)
        sampler = Sampler(self._web, ground, plan, self._folder, begin, self._wish.patience)
        try:
            self._watch(tally, begin)
            sampler.stop()
        except BaseException:
            sampler.give_up()
            raise
        finally:
            meter.stop()
        self.generator.check()
        tally.read()
        ran = plan.seconds
        if time.monotonic() - begin < ran and not self._over:
            self._interrupted = True  # also by the button of Locust's page
        if self._interrupted or self._over:  # then it went on until the last request began
            ran = min(tally.newest_s, ran)
        self._tell("auditing: every answered number against what is stored and found")
        found = audit(self._web, self._folder, ground, plan.seed, self._wish.patience)

        window = plan.window
        if self._interrupted or self._over:
            window = Window(min(window.from_s, ran), min(window.to_s, ran))
        measured = window.to_s - window.from_s
        result = Result(
            scenario=plan.scenario,
            profile=plan.profile,
            model=plan.model,
            seed=plan.seed,
            users=plan.users,
            rate=plan.highest if plan.model is Model.OPEN else None,
            processes=self._wish.workers or self._wish.processes,
            started_at=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            duration_s=round(ran, 2),
            window=window,
            host=self._host,
            private=self._wish.host is None,
            interrupted=self._interrupted,
            requests=tally.routes(measured),
            total=tally.total(measured),
            lag_ms=sampler.lags(window),
            cpu=meter.cpu(window),
            memory_mb=meter.memory(window),
            audit=found,
            breakpoint=self._breakpoint(tally, ran),
            levels=tally.levels(ran),
            timeline=[m for m in _timeline(tally, sampler, meter) if m.at_s < ran],
            facts=self._wish.facts
            | {"ground": f"{len(ground.chats):,} chats of {len(ground.tokens):,} applications"},
            planned_s=round(plan.seconds, 2),
            chats=len(ground.chats),
        )
        return replace(
            result, thresholds=self._thresholds(result), warnings=_warnings(result, plan)
        )

    def _watch(self, tally: Tally, begin: float) -> None:
        """Until the load is over: tell how it goes; stop it if somebody wants that, or all is known."""
        told = 0
        while self.generator.running:
            try:
                time.sleep(TICK_SECONDS)
                tally.read()
                now = time.monotonic() - begin
                if now > self._plan.seconds + ENDS_WITHIN:
                    raise Unusable("Locust does not end; it was killed, and nothing is known")
                if tally.seconds - told > TELL_SECONDS:
                    told = tally.seconds
                    self._tell(_progress(self._plan, tally, now))
                found = self._breakpoint(tally, now - WRITTEN_SECONDS)
                if found and len(found.steps) > 1 and not any(s.held for s in found.steps[-2:]):
                    self._over = True
                    self.generator.stop()
            except KeyboardInterrupt:
                if self._interrupted:
                    raise
                self._interrupted = True
                self._tell(
                    "stopping: requests under way are finished, then what there is is audited"
                )
                self.generator.stop()

    def _breakpoint(self, tally: Tally, now: float) -> Breakpoint | None:
        if self._plan.profile != "breakpoint":
            return None
        p99, errors = self._wish.max_p99_ms, self._wish.max_errors
        return tally.breakpoint(
            now, MAX_P99_MS if p99 is None else p99, MAX_ERRORS if errors is None else errors
        )

    def _thresholds(self, result: Result) -> list[Threshold]:
        """The bars of a run; those of `breakpoint` are of its steps, beyond which it goes on purpose."""
        unmeasured = result.interrupted and not result.total.count  # a warning says so
        if self._plan.profile == "breakpoint" or unmeasured:
            return []
        total, bars = result.total, []
        if (p99 := self._wish.max_p99_ms) is not None:
            kept = total.p99_ms is not None and total.p99_ms <= p99
            bars.append(Threshold("p99", p99, total.p99_ms, kept))
        if (errors := self._wish.max_errors) is not None:
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


def _model(plan: Plan) -> str:
    if plan.profile == "breakpoint":
        return f"open model, from {plan.stages[0].begin:g} arrivals a second upwards"
    if plan.model is Model.OPEN:
        return f"open model, {plan.highest:g} arrivals a second at the highest"
    return f"closed model, {plan.users:,} users at the highest, each waiting for its answers"


def _progress(plan: Plan, tally: Tally, now: float) -> str:
    recent = tally.last(TELL_SECONDS)
    p99 = "-" if recent.p99_ms is None else f"{recent.p99_ms:.1f} ms"
    level = f"{plan.level(now):,.0f} " + ("/s" if plan.model is Model.OPEN else "users")
    return (
        f"{now:4.0f} s  {level:>10}  {recent.rate:8,.0f}/s  p99 {p99:>9}  {recent.failures} failed"
    )


def _timeline(tally: Tally, sampler: Sampler, meter: Meter) -> list[Moment]:
    """Requests, samples and readings, second by second."""
    readings = {int(reading.at_s): reading for reading in meter.readings}
    sampled: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in sampler.samples:
        sampled[int(sample.at_s)].append(sample)
    moments = []
    for moment in tally.timeline():
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
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def _warnings(result: Result, plan: Plan) -> list[str]:
    """What makes the figures worth less."""
    cpu, warnings = result.cpu, []
    if cpu.busiest >= BUSY:
        warnings.append(
            f"the generator was the limit: one of its processes used {cpu.busiest:.0%} of a processor;"
            " more --processes, or workers on other machines, would send more"
        )
    others = cpu.machine - cpu.generator - (cpu.servers or 0)
    if cpu.machine >= FULL * cpu.processors:
        whom = "others" if cpu.servers is not None else "others, perhaps the servers"
        warnings.append(
            f"all {cpu.processors} processors of this machine were busy: {cpu.generator:.1f} of them with"
            f" the generator, {others:.1f} with {whom}; alone, the servers would do more"
        )
    elif cpu.servers is not None and others >= DISTURBED * cpu.processors:
        warnings.append(
            f"others used {others:.1f} of the {cpu.processors} processors meanwhile: the figures are of"
            " what they left"
        )
    if plan.model is Model.OPEN and plan.profile != "breakpoint" and not result.interrupted:
        held = [stage for stage in plan.stages if stage.counts]
        wanted = sum(s.arrivals(s.seconds) for s in held) / sum(s.seconds for s in held)
        if result.total.rate < HELD * wanted:
            warnings.append(
                f"{result.total.rate:,.0f} of {wanted:,.0f} arrivals a second were served: the rate was"
                " not held, and latencies count from when each was due"
            )
    if not result.total.count:
        warnings.append("nothing was measured: the run ended before its window began")
    return warnings
