"""Whether everything is well, asked once a second for however many look.

Each engine is asked in a thread of its own, and so is the report on all of them. Whoever hangs is waited for
no longer than a second, is named, and is not asked again before it has answered: a hanging engine costs
one thread.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from backend.bootstrap import Backend
from backend.monitoring import status
from backend.monitoring.status import EngineStatus, Rates, Status, Totals

MAX_SNAPSHOT_AGE_SECONDS = 1.0  # what was seen is shown for this long
ANSWER_TIMEOUT_SECONDS = 0.8
MAX_REPORT_AGE_SECONDS = 3.0  # a report that is older tells nothing of now
UNKNOWN_RATES = Rates(None, None, None)
MAX_RATE_PERIOD_SECONDS = 10.0  # what was done in a longer time tells nothing of now either

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """One engine: how long it took to answer, in seconds, or None and what it did instead."""

    name: str
    product: str  # a Redis may be a Valkey
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """Everything at one moment. `status` is None where no report came in time.

    `rates` are those since the look before; unknown at the first one for a while.
    """

    at: datetime
    engines: list[EngineHealth]
    status: Status | None
    rates: Rates

    @property
    def away(self) -> list[str]:
        """The names of the engines that do not answer, or not soon."""
        return [engine.name for engine in self.engines if engine.seconds is None]


class HealthPoller:
    """Looks at a core's engines. For one event loop; all its methods belong there."""

    def __init__(self, core: Backend) -> None:
        self._engines = {
            "PostgreSQL": _Probe(lambda: status.postgres_health(core.database)),
            "Redis": _Probe(lambda: status.redis_health(core.log)),
        }
        if index := core.index:
            self._engines["Elasticsearch"] = _Probe(lambda: status.elasticsearch_health(index))
        self._report = _Probe(
            lambda: status.read_status(
                core.database, core.log, core.jobs.length, core.index, core.counter_sync.lag
            )
        )
        self._products: dict[str, str] = {}  # as they called themselves
        self._lock = asyncio.Lock()
        self._snapshot: HealthSnapshot | None = None
        self._polled_at = 0.0
        self._totals: Totals | None = None
        self._rates = UNKNOWN_RATES

    async def poll(self) -> HealthSnapshot:
        """What there is to see: no older than a second when it is asked for, and answered within one."""
        async with self._lock:
            if (
                self._snapshot is None
                or time.monotonic() - self._polled_at >= MAX_SNAPSHOT_AGE_SECONDS
            ):
                self._snapshot = await self._poll_engines()
                self._polled_at = time.monotonic()
            return self._snapshot

    async def _poll_engines(self) -> HealthSnapshot:
        *in_time, _ = await asyncio.gather(
            *(probe.run() for probe in self._engines.values()), self._report.run()
        )
        engines = [
            self._engine(name, probe, answered)
            for (name, probe), answered in zip(self._engines.items(), in_time, strict=True)
        ]
        found = self._report.recent_result()
        return HealthSnapshot(datetime.now(UTC), engines, found, self._rates_since_last_poll(found))

    def _engine(self, name: str, probe: "_Probe[EngineStatus]", answered: bool) -> EngineHealth:
        found = probe.result
        if found and found.version:
            self._products[name] = found.engine
        product = self._products.get(name, name)
        if not answered:
            return EngineHealth(name, product, None, "does not answer")
        if found is None or found.problem:
            # Never the problem itself: it names an address.
            return EngineHealth(name, product, None, "is away")
        return EngineHealth(name, product, probe.seconds)

    def _rates_since_last_poll(self, found: Status | None) -> Rates:
        before, now = self._totals, found.totals if found else None
        if before is not now:  # otherwise the report is the one of the last look
            self._totals = now
            recent = before and now and now.at - before.at < MAX_RATE_PERIOD_SECONDS
            self._rates = (
                status.compute_rates(before, now) if before and now and recent else UNKNOWN_RATES
            )
        return self._rates


class _Probe(Generic[T]):
    """A call that may hang, made in a thread, one at a time."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.result: T | None = None  # the last one
        self.seconds = 0.0  # seconds
        self._function = function
        self._answered_at = -MAX_REPORT_AGE_SECONDS
        self._running: asyncio.Future[None] | None = None

    async def run(self) -> bool:
        """Ask, if it is not being asked already; whether it has answered within the time there is."""
        if self._running is None:
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            # Not one of a pool: a process that ends waits for those.
            threading.Thread(target=self._call, args=(loop,), name="health", daemon=True).start()
        done, _ = await asyncio.wait({self._running}, timeout=ANSWER_TIMEOUT_SECONDS)
        return bool(done)

    def recent_result(self) -> T | None:
        """The last answer, if it is of now."""
        return (
            self.result if time.monotonic() - self._answered_at < MAX_REPORT_AGE_SECONDS else None
        )

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        began = time.monotonic()
        answer = None
        try:
            answer = self._function()
        except Exception:
            logger.exception("a look at the engines failed")
        with suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(self._complete, answer, time.monotonic() - began)

    def _complete(self, answer: T | None, took: float) -> None:
        self.result, self.seconds = answer, took
        self._answered_at = time.monotonic()
        assert self._running
        self._running.set_result(None)
        self._running = None
