"""What every route works with: the core, the gatherer, and threads for the synchronous rest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from fastapi import Request as HttpRequest

from backend.accept import Request
from backend.api.gather import Gatherer
from backend.api.watch import Watch
from backend.bootstrap import Backend, addresses, assemble
from backend.log import Log
from backend.model import Accepted
from backend.settings import Durability, Settings
from backend.sql import Database

THREADS = 40

T = TypeVar("T")


@dataclass(slots=True)
class Service:
    """One process's hold on the core, for its event loop."""

    core: Backend
    gatherer: Gatherer
    watch: Watch
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(THREADS))

    async def accept(self, request: Request) -> Accepted:
        """Give numbers; see `Gatherer.accept`."""
        return await self.gatherer.accept(request)

    async def call(self, call: Callable[[], T]) -> T:
        """Run a call of the core in a thread."""
        return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._threads)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """The service of this process, on the settings' engines; closed when what it accepted is answered."""
    with ExitStack() as stack:
        core = await asyncio.to_thread(_open, settings, stack)
        gatherer = Gatherer(core.acceptor)
        try:
            yield Service(core, gatherer, Watch(core))
        finally:
            await asyncio.to_thread(gatherer.close)


def _open(settings: Settings, stack: ExitStack) -> Backend:
    """A core that connects when it is used: engines that are away now may be back then."""
    at = stack.enter_context(addresses(settings))
    database = stack.enter_context(closing(Database(at.database)))
    replicas = settings.durable_replicas if settings.durability is Durability.STRICT else 0
    log = stack.enter_context(closing(Log(at.redis, replicas=replicas)))
    return assemble(settings, at, database, log)


def here(request: HttpRequest) -> Service:
    """The service of the process that a request came to."""
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(here)]
