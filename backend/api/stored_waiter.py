"""`?wait=stored`: one poll of all shards serves all waiting requests.

`ingest.barrier.wait_cursor` would occupy a thread for each of them.
"""

import asyncio
import logging

from backend.domain.errors import InstaChatError
from backend.domain.model import Accepted
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.shards import ShardProgress

POLL_SECONDS = 0.02
logger = logging.getLogger(__name__)


class StoredWaiter:
    """The requests that wait until their creation is stored. Belongs to one event loop; not thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[bool], tuple[str, Accepted]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def wait_stored(self, token: str, accepted: Accepted, seconds: float) -> bool:
        """Wait until SQL has passed what an application accepted; False if that takes longer."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiting[future] = token, accepted
        if self._poller is None or self._poller.done():
            self._poller = self._loop.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(future, None)

    async def _poll(self) -> None:
        """Poll until no request waits any more."""
        while self._waiting:
            try:
                progress = await asyncio.to_thread(self._read_progress)
            except InstaChatError as error:
                logger.warning("%s", error.message)
                progress = {}
            for future, (token, accepted) in list(self._waiting.items()):
                of_shard = progress.get(accepted.shard)
                if of_shard and of_shard.position(token) >= accepted.entry and not future.done():
                    future.set_result(True)
            await asyncio.sleep(POLL_SECONDS)

    def _read_progress(self) -> dict[int, ShardProgress]:
        with self._database.connect() as connection:
            return shards.all_progress(connection)
