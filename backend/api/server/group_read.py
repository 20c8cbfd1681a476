"""Group read: requests that wait at the same moment are read in one statement of PostgreSQL.

As in group commit, the event loop collects reads into a batch, sends it, and delivers the results; while
PostgreSQL works on one batch, the next one collects. A batch has reads of one statement. The numbers issued
are read from Redis afterwards; nothing that is answered is cached.

A live count is the difference of two numbers that are read at two moments, and has to be that of one. It is
if one of the two did not change in between. The numbers issued did not if this process has read the same
before. Otherwise the rows are read again, and if a row has changed, the ordinary route answers.

Whatever is not simply there is left to the ordinary route: a number that is pending, rejected, removed or
unknown, a counter that is not verified, a connection that broke. PostgreSQL that does not answer costs the
waiting reads a 503 after READ_TIMEOUT_SECONDS, and one that is away leaves no connection: then every read
takes the ordinary route.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.server.cluster_count import ClusterCount
from backend.api.server.group_count import GroupCount
from backend.api.server.issued_before import IssuedBefore
from backend.api.server.queue_shares import QueueShares
from backend.api.server.slices import Slices
from backend.domain.errors import InstaChatError
from backend.domain.model import Parent
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.async_connection import AsyncConnection
from backend.storage.postgres.database import Database
from backend.storage.postgres.driver import Rows
from backend.storage.postgres.grouped_reads import GroupedRead, ReadValues
from backend.storage.redis.counters import Issued

# Of the result; bounds its memory, and the time that encoding it takes.
MAX_BATCH_ROWS: Final = 2_048
MAX_WAITING_READS: Final = (
    4_096  # of which an application has at most half; beyond this, TOO_MANY_CALLS
)
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

    def shown_counts(self, rows: Rows) -> "ShownCounts | None":
        """The live counts that it shows, given its rows, or those of a second look; None if it shows none."""

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """Takes its rows, of which there is at least one, and the numbers issued under the parents whose
        counts it shows.
        """

    def fall_back(self) -> None:
        """The ordinary route must answer."""

    def fail(self, error: Exception) -> None:
        """It failed: with an InstaChatError, a ProblemException, or what the other methods raised."""


class ShownCounts(NamedTuple):
    """The live counts that a read shows, of an application and its chats."""

    xmins: Mapping[Parent, str]
    """The transaction that wrote the row of each parent."""
    statement: GroupedRead
    """Reads these rows again, with the values and the rows at most that follow."""
    values: ReadValues
    max_rows: int = 1


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
    counts: ShownCounts | None

    @property
    def parents(self) -> Iterable[Parent]:
        """The parents whose live counts it shows."""
        return () if self.counts is None else self.counts.xmins


class GroupRead:
    """Reads for one event loop. Not thread-safe."""

    def __init__(
        self,
        database: Database,
        counts: GroupCount | ClusterCount,
        is_accepting: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_accepting` says whether a request is being accepted, which reads should not hold up."""
        self._database = database
        self._counts = counts
        self._issued_before = IssuedBefore()
        self._loop = asyncio.get_running_loop()
        self._queues: dict[GroupedRead, deque[_QueuedRead]] = {
            statement: deque() for statement in grouped_reads.ALL
        }
        self._queued = 0
        self._shares = QueueShares(MAX_WAITING_READS, self._count_queued)
        self._idle: list[AsyncConnection] = []
        self._running: dict[AsyncConnection, _Running] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._reconnect_at = self._loop.time()
        self._expiry: asyncio.TimerHandle | None = None  # of the reads that are queued
        self._hold: asyncio.TimerHandle | None = None  # while reads wait for a running statement
        self._dispatch_scheduled = False
        self._slices = Slices(self._dispatch, is_accepting)  # of what PostgreSQL has returned
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
        if not self._shares.take(_token(read), self._queued):
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
        self._slices.close()

    def _count_queued(self) -> Counter[str]:
        return Counter(_token(each.read) for queue in self._queues.values() for each in queue)

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
            and self._slices.waiting_calls < MAX_UNDELIVERED_READS
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
        """The reads of the next statement.

        If not all that wait fit into it, the applications take turns, so that one with many reads does not
        have the others wait for them.
        """
        queue = min(filter(None, self._queues.values()), key=_first_deadline)
        fits = sum(queued.read.max_rows for queued in queue) <= MAX_BATCH_ROWS
        batch: list[_QueuedRead] = []
        rows = 0
        for queued in queue if fits else _in_turns(queue):
            rows += queued.read.max_rows
            if batch and rows > MAX_BATCH_ROWS:
                break
            batch.append(queued)
        if len(batch) == len(queue):
            queue.clear()
        else:
            taken = set(map(id, batch))
            rest = [queued for queued in queue if id(queued) not in taken]
            queue.clear()
            queue.extend(rest)
        self._queued -= len(batch)
        self._shares.recount()
        return [queued.read for queued in batch]

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
        running = self._running.pop(connection)
        running.timer.cancel()
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
            self._count(reads, _rows_of_each(result, len(reads)), running.started_at)

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
        self._shares.recount()
        _fail_as_timed_out(expired)

    def _take_queued(self) -> list[Read]:
        reads = [queued.read for queue in self._queues.values() for queued in queue]
        for queue in self._queues.values():
            queue.clear()
        self._queued = 0
        self._shares.recount()
        return reads

    def _count(self, reads: Sequence[Read], rows: Sequence[Rows | None], asked_at: float) -> None:
        """Read the numbers issued for those reads that show counts, and deliver.

        The rows were asked for at `asked_at`, a time of the event loop.
        """
        found, absent = [], []
        for read, of_read in zip(reads, rows, strict=True):
            if of_read is None:
                absent.append(read)
                continue
            try:
                found.append(_FoundRead(read, of_read, read.shown_counts(of_read)))
            except Exception as error:  # noqa: BLE001  # as in `_call`
                _fail_with(read, error)
        uncounted: list[_FoundRead] = []
        by_count: dict[GroupCount, list[_FoundRead]] = {}
        for each in found:
            if (parent := next(iter(each.parents), None)) is not None:
                count = self._counts.of_application(parent.token)
                by_count.setdefault(count, []).append(each)
            else:
                uncounted.append(each)
        for count, of_count in by_count.items():
            parents = {parent for each in of_count for parent in each.parents}
            count.submit(tuple(parents), partial(self._check_counts, of_count, asked_at))
        if uncounted:
            self._deliver(uncounted, {})
        self._fall_back(absent)

    def _check_counts(
        self, found: Sequence[_FoundRead], asked_at: float, issued: Issued | Exception
    ) -> None:
        """Deliver the reads whose counts are those of a moment, and read the rows of the others again."""
        if isinstance(issued, Exception):
            self._deliver(found, issued)
            return
        self._issued_before.note(issued, self._loop.time())
        checked: list[_FoundRead] = []
        second_looks: dict[tuple[GroupedRead, ReadValues], list[_FoundRead]] = {}
        for each in found:
            assert each.counts is not None
            if any(issued[parent] is None for parent in each.parents) or all(
                self._issued_before.is_unchanged_since(parent, asked_at) for parent in each.parents
            ):
                checked.append(each)
            else:
                look = each.counts.statement, each.counts.values
                second_looks.setdefault(look, []).append(each)
        self._deliver(checked, issued)
        for of_look in second_looks.values():
            self.submit(_SecondLook(of_look, issued, self._deliver))

    def _deliver(self, found: Sequence[_FoundRead], issued: Issued | Exception) -> None:
        self._slices.run(partial(_call, each.read, _deliver_one, each, issued) for each in found)

    def _fall_back(self, reads: Sequence[Read]) -> None:
        for read in reads:
            _call(read, read.fall_back)

    async def _connect(self) -> None:
        """Open the connections that are missing; if that fails, again with the first read after a second."""
        try:
            await asyncio.to_thread(lambda: self._database.installation)  # the shards; cached
            while self.open_connections < CONNECTIONS:
                connection = await AsyncConnection.open(
                    self._database, grouped_reads.SETUP, self._slices.run_first
                )
                self._idle.append(connection)
                self._dispatch()
        except Exception as error:  # noqa: BLE001  # whatever it is, it may be over in a second
            known = isinstance(error, InstaChatError)
            reason = error if known else type(error).__name__  # another text may have secrets
            logger.warning("reads take the ordinary route: %s", reason)
            await asyncio.sleep(RECONNECT_DELAY_SECONDS)
        finally:
            self._connecting = None


class _SecondLook:
    """A read of the rows that reads have found before their numbers were read."""

    def __init__(
        self,
        found: Sequence[_FoundRead],
        issued: Issued,
        deliver: Callable[[Sequence[_FoundRead], Issued], None],
    ) -> None:
        """`deliver` delivers those whose rows have not changed."""
        counts = found[0].counts
        assert counts is not None
        self.statement = counts.statement
        self.values = counts.values
        self.max_rows = counts.max_rows
        self._found = found
        self._issued = issued
        self._deliver = deliver

    def shown_counts(self, rows: Rows) -> None:  # it shows nothing itself
        """See Read."""

    def deliver(self, rows: Rows, issued: Issued) -> None:  # noqa: ARG002
        """See Read."""
        self._deliver([each for each in self._found if _is_unchanged(each, rows)], self._issued)
        for each in self._found:
            if not _is_unchanged(each, rows):
                _call(each.read, each.read.fall_back)

    def fall_back(self) -> None:
        """See Read."""
        for each in self._found:
            _call(each.read, each.read.fall_back)

    def fail(self, error: Exception) -> None:
        """See Read."""
        for each in self._found:
            _call(each.read, each.read.fail, error)


def _is_unchanged(found: _FoundRead, rows: Rows) -> bool:
    """Whether a second look shows the rows of the parents that a read has found. Other parents may be new."""
    later = found.read.shown_counts(rows)
    assert found.counts is not None
    assert later is not None
    return found.counts.xmins.items() <= later.xmins.items()


def _in_turns(queue: Iterable[_QueuedRead]) -> Iterator[_QueuedRead]:
    """The reads of a queue, one of each application after another; those of each in their order."""
    by_token: dict[str, deque[_QueuedRead]] = {}
    for queued in queue:
        by_token.setdefault(_token(queued.read), deque()).append(queued)
    while by_token:
        for token, of_token in list(by_token.items()):
            yield of_token.popleft()
            if not of_token:
                del by_token[token]


def _token(read: Read) -> str:
    """The application whose read it is."""
    return read.values[0]


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
    read, rows, _ = found
    if isinstance(issued, InstaChatError):
        read.fail(issued)
    elif isinstance(issued, Exception) or any(issued[parent] is None for parent in found.parents):
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
