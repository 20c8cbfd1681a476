"""Opens what a process of the server works with, keeps its view of the epochs current, and closes it."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress

from backend.api.health import process_metrics
from backend.api.service import Service
from backend.bootstrap import Backend, open_unchecked
from backend.domain.errors import InstaChatError
from backend.settings import Settings

RENEW_INTERVAL_SECONDS = 0.5  # a token that was replaced is refused within a second
# A request must learn within a second that Redis is away. The CLI, which serves one user, waits longer.
REDIS_CONNECT_TIMEOUT_SECONDS = 0.4
REDIS_RESPONSE_TIMEOUT_SECONDS = 0.9

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """This process's service. On exit, every request that is being accepted is answered first."""
    with ExitStack() as stack:
        core = await asyncio.to_thread(_open_backend, settings, stack)
        notifier = stack.enter_context(ThreadPoolExecutor(1, "notifier"))
        service = Service(core, notifier)
        sampler = asyncio.create_task(process_metrics.run_sampler(service.pools))
        renewer = asyncio.create_task(_follow_sql(core, service))
        gc.collect()
        gc.freeze()  # the loaded modules stay: collections need not traverse them
        try:
            yield service
        finally:
            sampler.cancel()
            renewer.cancel()
            await service.close()


async def _follow_sql(core: Backend, service: Service) -> None:
    """Read epochs and replaced tokens from SQL again and again, also for an idle process.

    So it still rejects a demoted primary, and a token that was replaced. It also looks for its Redis until it
    has found it, so that it recognises a loss. If an engine hangs, one thread waits for it.
    """

    def refresh() -> None:
        core.acceptor.refresh()
        core.tokens.follow()
        core.epochs.recognition.look()

    while True:
        await asyncio.sleep(RENEW_INTERVAL_SECONDS)
        try:
            await asyncio.to_thread(refresh)
            service.apply_token_changes()
        except InstaChatError as error:  # PostgreSQL is away: `/` and `/readyz` report it
            logger.debug("the epochs of Redis were not renewed: %s", error)
        except Exception:
            logger.exception("the epochs of Redis can't be read")


def _open_backend(settings: Settings, stack: ExitStack) -> Backend:
    """A core that connects on first use: the server starts even while an engine is away."""
    core = stack.enter_context(
        open_unchecked(
            settings,
            connect_timeout_seconds=REDIS_CONNECT_TIMEOUT_SECONDS,
            reply_timeout_seconds=REDIS_RESPONSE_TIMEOUT_SECONDS,
        )
    )
    core.make_all()
    with suppress(InstaChatError):  # read now, so that no request comes before
        core.tokens.follow()
    return core
