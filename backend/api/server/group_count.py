"""Group count: the live counts that requests wait for at the same moment are read in one call of Redis."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from backend.domain.errors import InstaChatError
from backend.domain.model import Parent
from backend.storage.redis.counters import Issued
from backend.storage.redis.counters_async import CounterClient

Counted = Callable[[Issued | Exception], None]
CLOSE_POLL_SECONDS = 0.005

logger = logging.getLogger(__name__)


class GroupCount:
    """Reads counters for one event loop. Not thread-safe."""

    def __init__(self, shard_of: Callable[[str], int], client: CounterClient) -> None:
        """`shard_of` returns a token's shard."""
        self._shard_of = shard_of
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[Sequence[Parent], Counted]] = []
        self._call: asyncio.Task[None] | None = None

    def of_application(self, token: str) -> "GroupCount":  # noqa: ARG002  # see ClusterCount
        """What reads the counters of an application and of its chats: of a single Redis, this."""
        return self

    def submit(self, parents: Sequence[Parent], callback: Counted) -> None:
        """Call `callback` later with the numbers issued under these parents, or with EngineDown."""
        self._queue.append((parents, callback))
        if self._call is None:
            self._call = self._loop.create_task(self._read_queue())

    async def close(self) -> None:
        """Wait for the running call."""
        while self._call is not None:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        await self._client.close()

    async def _read_queue(self) -> None:
        try:
            await self._read_until_empty()
        finally:
            self._call = None

    async def _read_until_empty(self) -> None:
        while self._queue:
            queue, self._queue = self._queue, []
            result: Issued | Exception
            try:
                result = await self._read(queue)
            except InstaChatError as error:
                result = error
                # Redis is away: another call would take as long and fail likewise.
                queue += self._queue
                self._queue = []
            except Exception as error:  # noqa: BLE001  # every request gets a result, whatever is raised
                result = error
            for _, callback in queue:
                try:
                    callback(result)
                except Exception:
                    logger.exception("live counts could not be delivered")

    async def _read(self, queue: Sequence[tuple[Sequence[Parent], Counted]]) -> Issued:
        by_shard: dict[int, dict[Parent, None]] = {}
        for parents, _ in queue:
            for parent in parents:
                by_shard.setdefault(self._shard_of(parent.token), {})[parent] = None
        return await self._client.read_issued(
            {shard: tuple(of_shard) for shard, of_shard in by_shard.items()}
        )
