"""Polls the engines at most once a second, for any number of readers of the health.

A thread asks each engine, and another one reads the report on all of them. A reader waits at most a second.
An engine that does not answer by then is reported, and is not asked again until it has answered: a hanging
engine occupies one thread.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Generic, TypeVar

from backend.api.health.history import History
from backend.bootstrap import Backend
from backend.domain.errors import InstaChatError
from backend.monitoring import status
from backend.monitoring.health import EngineHealth, HealthSnapshot
from backend.monitoring.status import EngineStatus, Rates, Status, Totals

MAX_SNAPSHOT_AGE_SECONDS = 1.0  # an older snapshot is replaced
ANSWER_TIMEOUT_SECONDS = 0.8
NODE_SECONDS = 0.6  # for the nodes of a cluster: those that hang must not let all of Redis seem to
MAX_REPORT_AGE_SECONDS = 3.0  # an older report is not shown
UNKNOWN_RATES = Rates(None, None, None)
MAX_RATE_PERIOD_SECONDS = 10.0  # an average over a longer time is not a current rate

T = TypeVar("T")
logger = logging.getLogger(__name__)


class HealthPoller:
    """Polls a core's engines. Belongs to one event loop; not thread-safe."""

    def __init__(self, core: Backend) -> None:
        self._engines = {
            "PostgreSQL": _Probe(lambda: status.postgres_health(core.database)),
            "Redis": _Probe(lambda: _redis_health(core)),
        }
        if index := core.index:
            self._engines["Elasticsearch"] = _Probe(lambda: status.elasticsearch_health(index))
        self._report = _Probe(
            lambda: status.read_status(
                core.database,
                core.log,
                core.workers,
                core.jobs.length,
                core.index,
                core.counter_sync.lag,
                core.epochs.recognition.find_refusal,
            )
        )
        self._products: dict[str, str] = {}  # as the engines named themselves
        self._lock = asyncio.Lock()
        self._snapshot: HealthSnapshot | None = None
        self._polled_at = 0.0
        self._totals: Totals | None = None
        self._rates = UNKNOWN_RATES
        self.history = History()

    async def poll(self) -> HealthSnapshot:
        """A snapshot that is at most a second old. Returns within a second."""
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
        report = self._report.recent_result()
        rates = self._rates_since_last_poll(report)
        snapshot = HealthSnapshot(datetime.now(UTC), engines, report, rates)
        self.history.add(snapshot)
        return snapshot

    def _engine(self, name: str, probe: "_Probe[EngineStatus]", answered: bool) -> EngineHealth:
        result = probe.result
        if result and result.version:
            self._products[name] = result.engine
        product = self._products.get(name, name)
        if not answered:
            return EngineHealth(name, product, None, "does not answer")
        if result is None or result.problem:
            # Not the problem's own text: it contains an address.
            return EngineHealth(name, product, None, "is away")
        return EngineHealth(
            name,
            product,
            probe.seconds,
            shards_away=result.shards_away,
            shards=result.shards,
        )

    def _rates_since_last_poll(self, report: Status | None) -> Rates:
        before, now = self._totals, report.totals if report else None
        if before is not now:  # otherwise this is the report of the last poll
            self._totals = now
            recent = before and now and now.at - before.at < MAX_RATE_PERIOD_SECONDS
            self._rates = (
                status.compute_rates(before, now) if before and now and recent else UNKNOWN_RATES
            )
        return self._rates


def _redis_health(core: Backend) -> EngineStatus:
    """Redis's health. A server that has read the shards from PostgreSQL knows them from then on."""
    shards: Sequence[int] = ()
    with suppress(InstaChatError):
        shards = core.database.installation.all_shards
    return status.redis_health(core.log, shards, NODE_SECONDS)


class _Probe(Generic[T]):
    """A function that may hang. A thread calls it; there is one call at a time."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.result: T | None = None  # of the last call
        self.seconds = 0.0  # likewise
        self._function = function
        self._answered_at = -MAX_REPORT_AGE_SECONDS
        self._running: asyncio.Future[None] | None = None

    async def run(self) -> bool:
        """Start a call unless one is running; returns whether it has ended within 0.8 seconds."""
        if self._running is None:
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            # Not in a pool: a stopping process would wait for the thread of a pool.
            threading.Thread(target=self._call, args=(loop,), name="health", daemon=True).start()
        done, _ = await asyncio.wait({self._running}, timeout=ANSWER_TIMEOUT_SECONDS)
        return bool(done)

    def recent_result(self) -> T | None:
        """The last result, if it is at most 3 seconds old."""
        return (
            self.result if time.monotonic() - self._answered_at < MAX_REPORT_AGE_SECONDS else None
        )

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        started_at = time.monotonic()
        result = None
        try:
            result = self._function()
        except Exception:
            logger.exception("a health check failed")
        with suppress(RuntimeError):  # the event loop may be closed by now
            loop.call_soon_threadsafe(self._complete, result, time.monotonic() - started_at)

    def _complete(self, result: T | None, seconds: float) -> None:
        self.result, self.seconds = result, seconds
        self._answered_at = time.monotonic()
        assert self._running
        self._running.set_result(None)
        self._running = None
