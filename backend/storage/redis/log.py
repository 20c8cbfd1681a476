"""The log and the counters: InstaChat's data in Redis, which only the scripts change.

A shard's keys have the same hash tag, so that each script works on one slot of a Redis Cluster. The tag of
shard 3 is 3; those of shards from 16 on, which new installations have, spread the slots (see `keys`):

    instachat:{3}:epoch               the epoch, how far the log has come, and the server and database of both
    instachat:{3}:log                 the stream of accepted events, with ids `epoch-sequence`
    instachat:{3}:marks               when the log was stored up to which entry
    instachat:{3}:app:TOKEN           the counter of an application's chats
    instachat:{3}:chat:TOKEN:NUMBER   the counter of a chat's messages
    instachat:{3}:dirty               the parents whose counts SQL does not have yet, by time of the change
    instachat:{3}:key:…               the answer to a request with an idempotency key
    instachat:changes                 the pub/sub channel on which changed chats are named; not a key

The Redis of the job queue, which may be another one, has further keys: the queue (see `worker/queue.py`), and

    instachat:workers                 the time of each worker's last heartbeat
    instachat:paused                  exists while workers may not take jobs or sweep

Nothing here retries: a call whose reply was lost may have issued numbers, and a retry would issue others.
Each script in `backend/storage/redis/scripts` documents its keys and replies.

Each module holds the calls about one subject, all based on `client`; `types` has their values, and `errors`
the translation of Redis's errors. `accept_async` and `counters_async` make their calls from an event loop.
"""

from backend.storage.redis.accept import DEFAULT_MAX_ENTRIES, AcceptCalls
from backend.storage.redis.append import AppendCalls
from backend.storage.redis.client import CONNECT_TIMEOUT_SECONDS, REPLY_TIMEOUT_SECONDS
from backend.storage.redis.counters import CounterCalls
from backend.storage.redis.dirty_counters import DirtyCounterCalls
from backend.storage.redis.epochs import EpochCalls
from backend.storage.redis.files import FileCalls
from backend.storage.redis.idempotency_keys import IdempotencyKeyCalls
from backend.storage.redis.memory import MemoryCalls
from backend.storage.redis.nodes import NodeCalls
from backend.storage.redis.notifications import NotificationCalls
from backend.storage.redis.stream import DEFAULT_RETENTION_SECONDS, StreamCalls


class Log(
    AcceptCalls,
    AppendCalls,
    IdempotencyKeyCalls,
    StreamCalls,
    EpochCalls,
    CounterCalls,
    DirtyCounterCalls,
    MemoryCalls,
    FileCalls,
    NotificationCalls,
    NodeCalls,
):
    """One Redis's log and counters. Thread-safe.

    Every method raises EngineDown when Redis does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        replicas: int = 0,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        retention_seconds: float = DEFAULT_RETENTION_SECONDS,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS,
    ) -> None:
        """Not connected yet. `retention_seconds` is how long `trim` keeps entries after they are stored."""
        super().__init__(
            url,
            replicas=replicas,
            max_entries=max_entries,
            connect_timeout_seconds=connect_timeout_seconds,
            reply_timeout_seconds=reply_timeout_seconds,
        )
        self.retention_seconds = retention_seconds
