"""Group read: requests that wait at the same moment are read in one statement of PostgreSQL.

As in group commit, the event loop collects reads into a batch, sends it, and delivers the results; while
PostgreSQL works on one batch, the next one collects. A batch has reads of one statement. Its live counts are
read from Redis afterwards, so that they include every message that was removed. Nothing is cached.

Whatever is not simply there is left to the ordinary route: a number that is pending, rejected, removed or
unknown, a counter that is not verified, a connection that broke. PostgreSQL that does not answer costs the
waiting reads a 503 after READ_TIMEOUT_SECONDS, and one that is away leaves no connection: then every read
takes the ordinary route.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.server.cluster_count import ClusterCount
from backend.api.server.group_count import GroupCount
from backend.api.server.slices import Slices
from backend.domain.errors import InstaChatError
from backend.domain.model import Parent
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.async_connection import AsyncConnection, Rows
from backend.storage.postgres.database import Database
from backend.storage.postgres.grouped_reads import GroupedRead, ReadValues
from backend.storage.redis.counters import Issued

# Of the result; bounds its memory, and the time that encoding it takes.
MAX_BATCH_ROWS: Final = 2_048
MAX_WAITING_READS: Final = 4_096  # beyond this, TOO_MANY_CALLS
# Of earlier statements; with more, the next one waits, so that results do not heap up in memory.
MAX_UNDELIVERED_READS: Final = 32
CONNECTIONS: Final = 2
# Fewer reads wait for the running statement to return, until it is MAX_HOLD_SECONDS old: it may hang.
MIN_CONCURRENT_BATCH: Final = 16
MAX_HOLD_SECONDS: Final = 0.02
# In the queue, and of a statement; as a call of the ordinary route.
READ_TIMEOUT_SECONDS: Final = 4.0
RECONNECT_DELAY_SECONDS: Final = 1.0  # after an error, which may be permanent

logger = logging.getLogger(__name__)


class Read(Protocol):
    """One request's read, and what is done with its result. Exactly one of the last three is called."""

    @property
    def statement(self) -> GroupedRead:
        """Its statement."""

    @property
    def values(self) -> ReadValues:
        """The values of the statement."""

    @property
    def max_rows(self) -> int:
        """How many rows it has at most."""

    def parents(self, rows: Rows) -> Sequence[Parent]:
        """The parents whose live counts it shows, given its rows."""

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """Takes its rows, of which there is at least one, and the numbers issued under its `parents`."""

    def fall_back(self) -> None:
        """The ordinary route must answer."""

    def fail(self, error: Exception) -> None:
        """It failed: with an InstaChatError, a ProblemException, or what the other methods raised."""


class _QueuedRead(NamedTuple):
    read: Read
    deadline: float  # of the event loop's clock


class _Running(NamedTuple):
    """A statement that is executed."""

    started_at: float  # of the event loop's clock
    timer: asyncio.TimerHandle


class _FoundRead(NamedTuple):
    read: Read
    rows: Rows
    parents: Sequence[Parent]  # whose live counts it shows


class GroupRead:
    """Reads for one event loop. Not thread-safe."""

    def __init__(self, database: Database, counts: GroupCount | ClusterCount) -> None:
        self._database = database
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._queues: dict[GroupedRead, deque[_QueuedRead]] = {
            statement: deque() for statement in grouped_reads.ALL
        }
        self._queued = 0
        self._idle: list[AsyncConnection] = []
        self._running: dict[AsyncConnection, _Running] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._reconnect_at = self._loop.time()
        self._expiry: asyncio.TimerHandle | None = None  # of the reads that are queued
        self._hold: asyncio.TimerHandle | None = None  # while reads wait for a running statement
        self._dispatch_scheduled = False
        self._deliveries = Slices(self._dispatch)
        self._closed = False

    @property
    def waiting_reads(self) -> int:
        """How many reads are queued. Excludes those of the running statements."""
        return self._queued

    @property
    def open_connections(self) -> int:
        """How many connections there are, idle or executing a statement."""
        return len(self._idle) + len(self._running)

    def submit(self, read: Read) -> None:
        """Read, now or later, and tell `read` its result."""
        self._drop_closed()
        if self.open_connections < CONNECTIONS and self._may_connect():
            self._connecting = self._loop.create_task(self._connect())
        if not self.open_connections:
            read.fall_back()
            return
        if self._queued >= MAX_WAITING_READS:
            read.fail(ProblemException(problems.TOO_MANY_CALLS))
            return
        self._queued += 1
        deadline = self._loop.time() + READ_TIMEOUT_SECONDS
        self._queues[read.statement].append(_QueuedRead(read, deadline))
        if self._expiry is None:
            self._expiry = self._loop.call_at(deadline, self._expire)
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            # After this iteration of the event loop, so that its other requests join the batch.
            self._loop.call_soon(self._dispatch)

    def close(self) -> None:
        """Close the connections; the reads that still wait are not answered."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        for timer in (self._expiry, self._hold, *(each.timer for each in self._running.values())):
            if timer is not None:
                timer.cancel()
        for connection in (*self._idle, *self._running):
            connection.close()
        self._deliveries.close()

    def _may_connect(self) -> bool:
        return (
            self._connecting is None
            and not self._closed
            and self._loop.time() >= self._reconnect_at
        )

    def _drop_closed(self) -> None:
        """Forget the connections that PostgreSQL closed while they were idle."""
        if not all(connection.is_open for connection in self._idle):
            self._idle = [connection for connection in self._idle if connection.is_open]

    def _dispatch(self) -> None:
        """Execute statements while there are enough reads for one, and a connection."""
        self._dispatch_scheduled = False
        if self._closed:
            return
        self._fail_expired()
        self._drop_closed()
        if not self.open_connections:
            self._fall_back(self._take_queued())
        while (
            self._idle
            and self._queued
            and self._deliveries.waiting_calls < MAX_UNDELIVERED_READS
            and not self._is_held()
        ):
            self._execute(self._idle.pop(), self._take_batch())

    def _is_held(self) -> bool:
        """Whether the queued reads are too few for a statement beside the running one; then they wait."""
        if not self._running or self._queued >= MIN_CONCURRENT_BATCH:
            return False
        until = max(each.started_at for each in self._running.values()) + MAX_HOLD_SECONDS
        if until <= self._loop.time():
            return False
        if self._hold is None:
            self._hold = self._loop.call_at(until, self._end_hold)
        return True

    def _end_hold(self) -> None:
        self._hold = None
        self._dispatch()

    def _take_batch(self) -> list[Read]:
        """The reads of the next statement."""
        queue = min(filter(None, self._queues.values()), key=_first_deadline)
        batch = [queue.popleft().read]
        rows = batch[0].max_rows
        while queue and rows + queue[0].read.max_rows <= MAX_BATCH_ROWS:
            batch.append(queue.popleft().read)
            rows += batch[-1].max_rows
        self._queued -= len(batch)
        return batch

    def _execute(self, connection: AsyncConnection, reads: list[Read]) -> None:
        try:
            statement, values = reads[0].statement.execute(
                [read.values for read in reads], prepared=connection.has_session
            )
        except Exception as error:  # noqa: BLE001  # as in `_call`
            self._idle.append(connection)
            for read in reads:
                _fail_with(read, error)
            return
        now = self._loop.time()
        timer = self._loop.call_at(now + READ_TIMEOUT_SECONDS, self._time_out, connection, reads)
        self._running[connection] = _Running(now, timer)
        connection.execute(statement, values, partial(self._complete, connection, reads))

    def _complete(
        self, connection: AsyncConnection, reads: list[Read], result: Rows | Exception
    ) -> None:
        """A statement has returned."""
        self._running.pop(connection).timer.cancel()
        if isinstance(result, Exception):
            # Whatever the error is, it may be of this connection, such as a plan that is out of date.
            connection.close()
            self._reconnect_at = self._loop.time() + RECONNECT_DELAY_SECONDS
            logger.warning(
                "reads of %s take the ordinary route: %s, SQLSTATE %s",  # its text may quote a token
                reads[0].statement.name,
                type(result).__name__,
                getattr(result, "pgcode", None),
            )
        else:
            self._idle.append(connection)
        self._dispatch()  # first, so that PostgreSQL works while the responses are written
        if isinstance(result, Exception):
            self._fall_back(reads)
        else:
            self._count(reads, _rows_of_each(result, len(reads)))

    def _time_out(self, connection: AsyncConnection, reads: list[Read]) -> None:
        """PostgreSQL hangs: give this connection up, and with the last one all reads that wait for one."""
        del self._running[connection]
        connection.close()
        self._drop_closed()
        if not self.open_connections:
            reads = reads + self._take_queued()
        _fail_as_timed_out(reads)
        self._dispatch()

    def _expire(self) -> None:
        """The deadline of a read has come; it may have been executed meanwhile."""
        self._expiry = None
        self._fail_expired()
        if self._queued and self._expiry is None:
            deadline = min(map(_first_deadline, filter(None, self._queues.values())))
            self._expiry = self._loop.call_at(deadline, self._expire)

    def _fail_expired(self) -> None:
        """Fail the queued reads whose deadline has come, so that no statement is executed for them."""
        now = self._loop.time()
        expired = []
        for queue in self._queues.values():
            while queue and queue[0].deadline <= now:
                expired.append(queue.popleft().read)
        self._queued -= len(expired)
        _fail_as_timed_out(expired)

    def _take_queued(self) -> list[Read]:
        reads = [queued.read for queue in self._queues.values() for queued in queue]
        for queue in self._queues.values():
            queue.clear()
        self._queued = 0
        return reads

    def _count(self, reads: Sequence[Read], rows: Sequence[Rows | None]) -> None:
        """Read the live counts of those reads that show any, and deliver."""
        found, absent = [], []
        for read, of_read in zip(reads, rows, strict=True):
            if of_read is None:
                absent.append(read)
                continue
            try:
                found.append(_FoundRead(read, of_read, read.parents(of_read)))
            except Exception as error:  # noqa: BLE001  # as in `_call`
                _fail_with(read, error)
        parents = {parent for each in found for parent in each.parents}
        if parents:
            self._counts.submit(tuple(parents), partial(self._deliver, found))
        else:
            self._deliver(found, {})
        self._fall_back(absent)

    def _deliver(self, found: Sequence[_FoundRead], issued: Issued | Exception) -> None:
        self._deliveries.run(
            partial(_call, each.read, _deliver_one, each, issued) for each in found
        )

    def _fall_back(self, reads: Sequence[Read]) -> None:
        for read in reads:
            _call(read, read.fall_back)

    async def _connect(self) -> None:
        """Open the connections that are missing; if that fails, again with the first read after a second."""
        try:
            await asyncio.to_thread(lambda: self._database.installation)  # the shards; cached
            while self.open_connections < CONNECTIONS:
                self._idle.append(await AsyncConnection.open(self._database, grouped_reads.SETUP))
                self._dispatch()
        except Exception as error:  # noqa: BLE001  # whatever it is, it may be over in a second
            known = isinstance(error, InstaChatError)
            reason = error if known else type(error).__name__  # another text may have secrets
            logger.warning("reads take the ordinary route: %s", reason)
            await asyncio.sleep(RECONNECT_DELAY_SECONDS)
        finally:
            self._connecting = None


def _first_deadline(queue: deque[_QueuedRead]) -> float:
    return queue[0].deadline


def _rows_of_each(rows: Rows, reads: int) -> list[Rows | None]:
    """The rows of each read; None for those without."""
    found: list[Rows | None] = [None] * reads
    for row in rows:
        place = row[0] - 1
        of_read = found[place]
        if of_read is None:
            found[place] = [row]
        else:
            of_read.append(row)
    return found


def _deliver_one(found: _FoundRead, issued: Issued | Exception) -> None:
    read, rows, parents = found
    if isinstance(issued, InstaChatError):
        read.fail(issued)
    elif isinstance(issued, Exception) or any(issued[parent] is None for parent in parents):
        read.fall_back()
    else:
        read.deliver(rows, issued)


def _fail_as_timed_out(reads: Sequence[Read]) -> None:
    for read in reads:
        _call(read, read.fail, ProblemException(problems.CALL_TIMED_OUT))


def _call(read: Read, function: Any, *arguments: object) -> None:
    """Tell one read its result; if that fails, it gets the error, and the other reads still get theirs."""
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001  # its client must be answered, whatever is raised
        _fail_with(read, error)


def _fail_with(read: Read, error: Exception) -> None:
    """Answer a read whose own code failed."""
    logger.error("a result could not be delivered", exc_info=error)
    try:
        read.fail(error)
    except Exception:
        logger.exception("nor could its error")
