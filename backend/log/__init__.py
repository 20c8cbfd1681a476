"""The log and the counters: everything that lives in Redis, and the scripts that alone may change it.

A shard's keys carry one hash tag, so that each script works on one slot of a Redis Cluster:

    instachat:{3}:life                which server and which life these numbers belong to
    instachat:{3}:log                 the stream of accepted events, ids `epoch-sequence`
    instachat:{3}:app:TOKEN           counter of an application's chats
    instachat:{3}:chat:TOKEN:NUMBER   counter of a chat's messages
    instachat:{3}:unsynced            parents whose count SQL does not know yet, by since when
    instachat:{3}:bell                a drain was asked for and has not begun
    instachat:{3}:key:…               an idempotency key's answer
    instachat:workers                 when each running worker was last heard of
    instachat:paused                  there while workers shall take no jobs and make no sweeps

Nothing here retries: a call whose answer was lost may have given numbers, and a second try would
give others. The scripts are in `backend/lua`, each with its keys and answers.

A module holds the calls of one thing: accepting (and once more, for an event loop, `asynchronous`), the
stream, lives, counters, unsynced parents, workers. Each is built on `calls`; what they give and take is in
`shapes`, what goes wrong in `troubles`.
"""

from backend.log.accepting import MEMORY_SHARE as MEMORY_SHARE
from backend.log.accepting import AcceptCalls
from backend.log.accepting import idempotency_key as idempotency_key
from backend.log.calls import connect as connect
from backend.log.counters import CounterCalls
from backend.log.lives import LifeCalls
from backend.log.shapes import Batch as Batch
from backend.log.shapes import Counter as Counter
from backend.log.shapes import Counts as Counts
from backend.log.shapes import Creation as Creation
from backend.log.shapes import Given as Given
from backend.log.shapes import Life as Life
from backend.log.shapes import LifeLost as LifeLost
from backend.log.shapes import Outcome as Outcome
from backend.log.shapes import Page as Page
from backend.log.shapes import Refused as Refused
from backend.log.stream import StreamCalls
from backend.log.unsynced import UnsyncedCalls
from backend.log.workers import WorkerCalls


class Log(AcceptCalls, StreamCalls, LifeCalls, CounterCalls, UnsyncedCalls, WorkerCalls):
    """One Redis's log and counters. Thread-safe.

    Every method raises EngineDown when Redis does not answer.
    """
