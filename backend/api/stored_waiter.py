"""`?wait=stored`: one poll of the shards' cursors serves all waiting requests.

`ingest.barrier.wait_cursor` would occupy a thread for each of them.
"""

import asyncio
import logging

from backend.domain.errors import InstaChatError
from backend.domain.model import Accepted, EntryId
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.postgres.shards import ShardState

POLL_SECONDS = 0.02
logger = logging.getLogger(__name__)


class StoredWaiter:
    """The requests that wait until their creation is stored. Belongs to one event loop; not thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._entries: dict[asyncio.Future[bool], tuple[int, EntryId]] = {}
        self._poller: asyncio.Task[None] | None = None

    async def wait_stored(self, accepted: Accepted, seconds: float) -> bool:
        """Wait until the shard's cursor has passed the entry of `accepted`; False if that takes longer."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._entries[future] = accepted.shard, accepted.entry
        if self._poller is None or self._poller.done():
            self._poller = self._loop.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return False
        finally:
            self._entries.pop(future, None)

    async def _poll(self) -> None:
        """Poll until no request waits any more."""
        while self._entries:
            try:
                states = await asyncio.to_thread(self._read_states)
            except InstaChatError as error:
                logger.warning("%s", error.message)
                states = {}
            for future, (shard, entry) in list(self._entries.items()):
                if shard in states and states[shard].cursor >= entry and not future.done():
                    future.set_result(True)
            await asyncio.sleep(POLL_SECONDS)

    def _read_states(self) -> dict[int, ShardState]:
        with self._database.connect() as connection:
            return shards.shard_states(connection)
