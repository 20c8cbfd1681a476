"""The log and the counters: everything that lives in Redis, and the scripts that alone may change it.

A shard's keys carry one hash tag, so that each script works on one slot of a Redis Cluster:

    instachat:{3}:epoch  which server and which life these numbers belong to
    instachat:{3}:log                 the stream of accepted events, ids `epoch-sequence`
    instachat:{3}:app:TOKEN           counter of an application's chats
    instachat:{3}:chat:TOKEN:NUMBER   counter of a chat's messages
    instachat:{3}:dirty   parents whose count SQL does not know yet, by since when
    instachat:{3}:wake-up  a drain was asked for and has not begun
    instachat:{3}:key:…               an idempotency key's answer
    instachat:workers                 when each running worker was last heard of
    instachat:paused                  there while workers shall take no jobs and make no sweeps

Nothing here retries: a call whose answer was lost may have given numbers, and a second try would
give others. The scripts are in `backend/storage/redis/scripts`, each with its keys and answers.

A module holds the calls of one thing: accepting (and once more, for an event loop, `asynchronous`), the
stream, epochs, counters, dirty parents, workers. Each is built on `calls`; what they give and take is in
`shapes`, what goes wrong in `troubles`.
"""

from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.counters import CounterCalls
from backend.storage.redis.dirty_counters import DirtyCounterCalls
from backend.storage.redis.epochs import EpochCalls
from backend.storage.redis.stream import StreamCalls
from backend.storage.redis.workers import WorkerCalls


class Log(AcceptCalls, StreamCalls, EpochCalls, CounterCalls, DirtyCounterCalls, WorkerCalls):
    """One Redis's log and counters. Thread-safe.

    Every method raises EngineDown when Redis does not answer.
    """
