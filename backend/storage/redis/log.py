"""The log and the counters: InstaChat's data in Redis, which only the scripts change.

A shard's keys have the same hash tag, so that each script works on one slot of a Redis Cluster:

    instachat:{3}:epoch               the epoch, and the server and database that it belongs to
    instachat:{3}:log                 the stream of accepted events, with ids `epoch-sequence`
    instachat:{3}:app:TOKEN           the counter of an application's chats
    instachat:{3}:chat:TOKEN:NUMBER   the counter of a chat's messages
    instachat:{3}:dirty               the parents whose counts SQL does not have yet, by time of the change
    instachat:{3}:wake-up             exists while a requested drain has not ended
    instachat:{3}:key:…               the answer to a request with an idempotency key
    instachat:workers                 the time of each worker's last heartbeat
    instachat:paused                  exists while workers may not take jobs or sweep
    instachat:changes                 the pub/sub channel on which changed chats are named; not a key

The job queue has a key of its own, in the queue's Redis (see `worker/queue.py`).

Nothing here retries: a call whose reply was lost may have issued numbers, and a retry would issue others.
Each script in `backend/storage/redis/scripts` documents its keys and replies.

Each module holds the calls about one subject, all based on `client`; `types` has their values, and `errors`
the translation of Redis's errors. `accept_async` and `counters_async` make their calls from an event loop.
"""

from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.counters import CounterCalls
from backend.storage.redis.dirty_counters import DirtyCounterCalls
from backend.storage.redis.epochs import EpochCalls
from backend.storage.redis.idempotency_keys import IdempotencyKeyCalls
from backend.storage.redis.notifications import NotificationCalls
from backend.storage.redis.stream import StreamCalls
from backend.storage.redis.workers import WorkerCalls


class Log(
    AcceptCalls,
    IdempotencyKeyCalls,
    StreamCalls,
    EpochCalls,
    CounterCalls,
    DirtyCounterCalls,
    NotificationCalls,
    WorkerCalls,
):
    """One Redis's log and counters. Thread-safe.

    Every method raises EngineDown when Redis does not answer.
    """
