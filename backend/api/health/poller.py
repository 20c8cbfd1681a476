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
from backend.monitoring.status import Engine, Rates, Status, Totals

PERIOD_SECONDS = 1.0  # what was seen is shown for this long
ANSWER_SECONDS = 0.8
STALE_SECONDS = 3.0  # a report that is older tells nothing of now
UNMEASURED = Rates(None, None, None)
RATE_SECONDS = 10.0  # what was done in a longer time tells nothing of now either

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSeen:
    """One engine: how long it took to answer, in seconds, or None and what it did instead."""

    name: str
    product: str  # a Redis may be a Valkey
    seconds: float | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything at one moment. `status` is None where no report came in time.

    `rates` are those since the look before; unknown at the first one for a while.
    """

    at: datetime
    engines: list[EngineSeen]
    status: Status | None
    rates: Rates

    @property
    def away(self) -> list[str]:
        """The names of the engines that do not answer, or not soon."""
        return [engine.name for engine in self.engines if engine.seconds is None]


class Watch:
    """Looks at a core's engines. For one event loop; all its methods belong there."""

    def __init__(self, core: Backend) -> None:
        self._engines = {
            "PostgreSQL": _Question(lambda: status.postgres_engine(core.database)),
            "Redis": _Question(lambda: status.redis_engine(core.log)),
        }
        if index := core.index:
            self._engines["Elasticsearch"] = _Question(lambda: status.elasticsearch_engine(index))
        self._report = _Question(
            lambda: status.report(
                core.database, core.log, core.jobs.length, core.index, core.syncer.lag
            )
        )
        self._products: dict[str, str] = {}  # as they called themselves
        self._lock = asyncio.Lock()
        self._seen: Seen | None = None
        self._looked = 0.0
        self._totals: Totals | None = None
        self._rates = UNMEASURED

    async def look(self) -> Seen:
        """What there is to see: no older than a second when it is asked for, and answered within one."""
        async with self._lock:
            if self._seen is None or time.monotonic() - self._looked >= PERIOD_SECONDS:
                self._seen = await self._look()
                self._looked = time.monotonic()
            return self._seen

    async def _look(self) -> Seen:
        *in_time, _ = await asyncio.gather(
            *(question.put() for question in self._engines.values()), self._report.put()
        )
        engines = [
            self._engine(name, question, answered)
            for (name, question), answered in zip(self._engines.items(), in_time, strict=True)
        ]
        found = self._report.recent()
        return Seen(datetime.now(UTC), engines, found, self._rates_until(found))

    def _engine(self, name: str, question: "_Question[Engine]", answered: bool) -> EngineSeen:
        found = question.answer
        if found and found.version:
            self._products[name] = found.engine
        product = self._products.get(name, name)
        if not answered:
            return EngineSeen(name, product, None, "does not answer")
        if found is None or found.problem:
            # Never the problem itself: it names an address.
            return EngineSeen(name, product, None, "is away")
        return EngineSeen(name, product, question.took)

    def _rates_until(self, found: Status | None) -> Rates:
        before, now = self._totals, found.totals if found else None
        if before is not now:  # otherwise the report is the one of the last look
            self._totals = now
            recent = before and now and now.at - before.at < RATE_SECONDS
            self._rates = status.rates(before, now) if before and now and recent else UNMEASURED
        return self._rates


class _Question(Generic[T]):
    """A call that may hang, made in a thread, one at a time."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self.answer: T | None = None  # the last one
        self.took = 0.0  # seconds
        self._ask = ask
        self._answered = -STALE_SECONDS
        self._asking: asyncio.Future[None] | None = None

    async def put(self) -> bool:
        """Ask, if it is not being asked already; whether it has answered within the time there is."""
        if self._asking is None:
            loop = asyncio.get_running_loop()
            self._asking = loop.create_future()
            # Not one of a pool: a process that ends waits for those.
            threading.Thread(target=self._run, args=(loop,), name="watch", daemon=True).start()
        done, _ = await asyncio.wait({self._asking}, timeout=ANSWER_SECONDS)
        return bool(done)

    def recent(self) -> T | None:
        """The last answer, if it is of now."""
        return self.answer if time.monotonic() - self._answered < STALE_SECONDS else None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        began = time.monotonic()
        answer = None
        try:
            answer = self._ask()
        except Exception:
            logger.exception("a look at the engines failed")
        with suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(self._landed, answer, time.monotonic() - began)

    def _landed(self, answer: T | None, took: float) -> None:
        self.answer, self.took = answer, took
        self._answered = time.monotonic()
        assert self._asking
        self._asking.set_result(None)
        self._asking = None
