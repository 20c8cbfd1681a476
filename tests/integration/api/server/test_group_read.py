"""Group read: reads of the same moment share one statement, and none suffers from another's failure."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import uvloop
from sqlalchemy import Connection

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.server import group_read, slices
from backend.api.server.group_count import GroupCount
from backend.api.server.group_read import GroupRead, ShownCounts
from backend.bootstrap import Backend
from backend.domain.errors import EngineDown
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.async_connection import AsyncConnection
from backend.storage.postgres.driver import Rows
from backend.storage.postgres.grouped_reads import GroupedRead, ReadValues
from backend.storage.redis.counters import Issued
from backend.storage.redis.counters_async import ThreadCounterClient, make_async_counter_client
from tests.support.pgbouncer import need_sessions
from tests.support.redis_values import plant_counter
from tests.support.waiting import PATIENCE_SECONDS

MESSAGES = 20
Run = Callable[[Callable[[GroupRead], Awaitable[None]]], None]


class RecordedRead:
    """A read whose result is a future: its rows, None if it falls back, or its error."""

    def __init__(
        self,
        statement: GroupedRead,
        values: ReadValues,
        max_rows: int = 1,
        parents: Sequence[Parent] = (),
    ) -> None:
        self.statement = statement
        self.values = values
        self.max_rows = max_rows
        self._parents = parents
        self.issued: Issued = {}
        self.result: asyncio.Future[Rows | None] = asyncio.get_running_loop().create_future()

    def shown_counts(self, rows: Rows) -> ShownCounts | None:
        """See Read."""
        if not self._parents:
            return None
        xmin: str = rows[0][2]
        xmins = dict.fromkeys(self._parents, xmin)
        return ShownCounts(xmins, self.statement, self.values)

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """See Read."""
        self.issued = issued
        self.result.set_result(rows)

    def fall_back(self) -> None:
        """See Read."""
        self.result.set_result(None)

    def fail(self, error: Exception) -> None:
        """See Read."""
        self.result.set_exception(error)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that asynchronous connections have executed since they were opened."""
    need_sessions()
    executed: list[str] = []
    execute = AsyncConnection.execute

    def record(self: AsyncConnection, statement: str, *arguments: object) -> None:
        if statement.startswith("EXECUTE"):
            executed.append(statement.partition("(")[0])
        execute(self, statement, *arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(AsyncConnection, "execute", record)
    return executed


@pytest.fixture
def chat(backend: Backend, application: str) -> Parent:
    """A chat with messages that are stored."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    texts = [f"text {number}" for number in range(1, MESSAGES + 1)]
    backend.acceptor.accept(AcceptRequest.messages(application, 1, texts))
    backend.drainer.drain_all()
    return Parent(application, 1)


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, backend: Backend) -> Run:
    """Runs a scenario with a group whose connections are open, on each kind of event loop."""

    async def scenario_in_group(scenario: Callable[[GroupRead], Awaitable[None]]) -> None:
        async with open_group(backend) as group:
            await scenario(group)

    return lambda scenario: request.param(scenario_in_group(scenario))


@asynccontextmanager
async def open_group(backend: Backend, *, in_thread: bool = False) -> AsyncIterator[GroupRead]:
    """A group with open connections; counts are read on the event loop, or by a thread."""
    log = backend.log
    client = ThreadCounterClient(log) if in_thread else make_async_counter_client(log)
    counts = GroupCount(backend.counters.shard, client)
    group = GroupRead(backend.database, counts)
    try:
        await connected(group)
        yield group
    finally:
        group.close()
        await counts.close()


async def connected(group: GroupRead) -> None:
    """Return once the group has all connections. Until the first one, it lets reads fall back."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while group.open_connections < group_read.CONNECTIONS:
            await all_results(group, [message("unknown-token-that-is-long", 1)])
            await asyncio.sleep(0.01)


class TableLock:
    """Makes every read of a message hang, from `take` to `release`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def take(self) -> None:
        """Lock the table; new connections can't prepare their statements either."""
        self._connection.exec_driver_sql("LOCK TABLE message")

    def release(self) -> None:
        """Unlock it."""
        self._connection.rollback()


@pytest.fixture
def lock(backend: Backend) -> Iterator[TableLock]:
    """A lock that is released at the end of the test."""
    with backend.database.engine.connect() as connection:
        yield TableLock(connection)


def message(token: str, number: int) -> RecordedRead:
    """A read of a message of the first chat."""
    return RecordedRead(grouped_reads.MESSAGES, (token, 1, number))


async def all_results(
    group: GroupRead, reads: Sequence[RecordedRead]
) -> list[Rows | BaseException | None]:
    """Submit all at once; returns the result or exception of each."""
    for read in reads:
        group.submit(read)
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.gather(*(read.result for read in reads), return_exceptions=True)


def numbers(results: Sequence[Rows | BaseException | None]) -> list[int | None]:
    """The number of the message in each result."""
    return [result[0][1] if isinstance(result, list) else None for result in results]


def test_reads_of_one_moment_are_one_statement(
    run: Run, chat: Parent, statements: list[str]
) -> None:
    """Each gets its own rows; those whose number is not stored fall back."""

    async def scenario(group: GroupRead) -> None:
        statements.clear()
        wanted = [*range(1, MESSAGES + 1), 7, MESSAGES + 1, 7]
        results = await all_results(group, [message(chat.token, number) for number in wanted])
        assert numbers(results) == [n if n <= MESSAGES else None for n in wanted]
        assert statements == ["EXECUTE grouped_messages"]

    run(scenario)


def test_while_a_statement_runs_the_next_batch_collects(
    run: Run,
    chat: Parent,
    statements: list[str],
    lock: TableLock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few reads wait for the running statement; many start another one."""
    monkeypatch.setattr(group_read, "MAX_HOLD_SECONDS", PATIENCE_SECONDS)

    async def scenario(group: GroupRead) -> None:
        await asyncio.to_thread(lock.take)
        statements.clear()
        few = group_read.MIN_CONCURRENT_BATCH - 1
        reads = []
        for count, running in ((1, 1), (few, 1), (1, 2)):
            for _ in range(count):
                reads.append(message(chat.token, 1))
                group.submit(reads[-1])
            await asyncio.sleep(0.01)
            assert len(statements) == running
        await asyncio.to_thread(lock.release)
        await asyncio.gather(*(read.result for read in reads))
        assert len(statements) == 2

    run(scenario)


def test_a_few_reads_do_not_wait_for_a_statement_that_hangs(
    run: Run, chat: Parent, lock: TableLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take the other connection."""
    monkeypatch.setattr(group_read, "READ_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(grouped_reads, "SETUP", grouped_reads.SETUP.replace("'5s'", "0"))

    async def scenario(group: GroupRead) -> None:
        await asyncio.to_thread(lock.take)
        hanging = message(chat.token, 1)
        group.submit(hanging)
        await asyncio.sleep(0.01)
        (rows,) = await all_results(group, [RecordedRead(grouped_reads.CHATS, (chat.token, 1))])
        assert isinstance(rows, list)
        assert not hanging.result.done()
        await asyncio.to_thread(lock.release)
        assert numbers([await hanging.result]) == [1]

    run(scenario)


def test_an_expired_read_fails_and_costs_no_connection(
    run: Run, chat: Parent, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not executed, and those behind it are."""

    async def scenario(group: GroupRead) -> None:
        statements.clear()
        with monkeypatch.context() as patch:
            patch.setattr(group_read, "READ_TIMEOUT_SECONDS", 0)
            expired = message(chat.token, 1)
            group.submit(expired)
        (result,) = await all_results(group, [message(chat.token, 2)])
        assert numbers([result]) == [2]
        assert problem_of(expired.result.exception()) == problems.CALL_TIMED_OUT
        assert statements == ["EXECUTE grouped_messages"]
        assert group.open_connections == group_read.CONNECTIONS

    run(scenario)


def test_each_kind_of_read_has_a_statement_of_its_own(
    run: Run, chat: Parent, statements: list[str]
) -> None:
    """And all of them are answered."""

    async def scenario(group: GroupRead) -> None:
        statements.clear()
        token = chat.token
        reads = [
            RecordedRead(grouped_reads.APPLICATIONS, (token,)),
            message(token, 1),
            RecordedRead(grouped_reads.PAGES, (token, 1, 0, 2**53, 5), 5),
            RecordedRead(grouped_reads.CHATS, (token, 1)),
            RecordedRead(grouped_reads.CHAT_PAGES, (token, 0, 5), 5),
            message(token, 2),
        ]
        results = await all_results(group, reads)
        assert [len(rows) for rows in results if isinstance(rows, list)] == [1, 1, 5, 1, 1, 1]
        assert sorted(statements) == [
            "EXECUTE grouped_applications",
            "EXECUTE grouped_chat_pages",
            "EXECUTE grouped_chats",
            "EXECUTE grouped_messages",
            "EXECUTE grouped_pages",
        ]

    run(scenario)


def test_a_batch_of_long_pages_is_split(
    run: Run, chat: Parent, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statement returns more than MAX_BATCH_ROWS, unless one read alone may."""
    monkeypatch.setattr(group_read, "MAX_BATCH_ROWS", 40)

    async def scenario(group: GroupRead) -> None:
        statements.clear()
        values = (chat.token, 1, 0, 2**53, MESSAGES)
        reads = [RecordedRead(grouped_reads.PAGES, values, MESSAGES) for _ in range(6)]
        assert all(await all_results(group, reads))
        assert len(statements) == 3

    run(scenario)


def test_an_application_with_many_reads_does_not_have_another_wait_for_all_of_them(
    run: Run, chat: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a statement has no room for all, the applications take turns."""
    monkeypatch.setattr(group_read, "MAX_BATCH_ROWS", 2)

    async def scenario(group: GroupRead) -> None:
        reads = [message(chat.token, number) for number in range(1, 13)]
        other = message("another-token-that-is-long", 1)
        done: list[RecordedRead] = []

        def record(read: RecordedRead, _: object) -> None:
            done.append(read)

        for read in (*reads, other):
            read.result.add_done_callback(partial(record, read))
        found = await all_results(group, [*reads, other])
        assert numbers(found[:-1]) == list(range(1, 13))
        assert done.index(other) < 4, "two statements of two reads each run at a time"

    run(scenario)


def test_the_results_of_a_batch_are_delivered_in_slices(
    run: Run, chat: Parent, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives meanwhile need not wait for all of them; the next statement waits for the most of them."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0)
    monkeypatch.setattr(group_read, "MAX_UNDELIVERED_READS", 3)

    async def scenario(group: GroupRead) -> None:
        statements.clear()
        reads = [message(chat.token, number) for number in range(1, 11)]
        for read in reads:
            group.submit(read)
        await reads[0].result
        assert 5 <= sum(not read.result.done() for read in reads) < 10
        later = message(chat.token, 11)
        group.submit(later)
        await asyncio.sleep(0)
        assert len(statements) == 1
        assert numbers([await later.result]) == [11]
        assert [numbers([read.result.result()]) for read in reads] == [[n] for n in range(1, 11)]
        assert len(statements) == 2

    run(scenario)


@pytest.mark.parametrize("in_thread", [False, True], ids=["awaited", "by a thread"])
def test_live_counts_are_read_together(backend: Backend, chat: Parent, in_thread: bool) -> None:
    """Also of several applications; a counter that is not verified makes only its reads fall back."""
    other = backend.catalog.applications.create("other").token
    plant_counter(backend.log, backend.counters.shard(other), Parent(other), epoch=0)

    async def scenario() -> None:
        async with open_group(backend, in_thread=in_thread) as group:
            if not in_thread:
                backend.counters.read_issued([Parent(chat.token)])  # loads the script
            application = Parent(chat.token)
            reads = [
                RecordedRead(grouped_reads.CHATS, (chat.token, 1), 1, [chat]),
                RecordedRead(grouped_reads.APPLICATIONS, (other,), 1, [Parent(other)]),
                RecordedRead(grouped_reads.APPLICATIONS, (chat.token,), 1, [application]),
            ]
            results = await all_results(group, reads)
            assert [bool(result) for result in results] == [True, False, True]
            assert reads[0].issued[chat] == MESSAGES
            assert reads[2].issued[application] == 1

    asyncio.run(scenario())


class ChangingCounts:
    """Reads counters after a change, if there is one."""

    def __init__(self, counts: GroupCount) -> None:
        self._counts = counts
        self.change: Callable[[], object] | None = None

    def of_application(self, _: str) -> "ChangingCounts":
        """See GroupCount."""
        return self

    def submit(
        self, parents: Sequence[Parent], callback: Callable[[Issued | Exception], None]
    ) -> None:
        """See GroupCount."""
        change, self.change = self.change, None
        if change is not None:
            change()
        self._counts.submit(parents, callback)


@pytest.mark.parametrize(
    ("changes", "is_answered", "looks"),
    [("", True, 1), ("create", True, 2), ("delete", True, 1), ("delete and create", False, 2)],
)
def test_a_count_is_that_of_a_moment(
    run: Run,
    backend: Backend,
    chat: Parent,
    statements: list[str],
    changes: str,
    is_answered: bool,
    looks: int,
) -> None:
    """Rows are read again only if numbers were issued meanwhile; if they changed, too, the route answers."""
    backend.counters.read_issued(
        [chat]
    )  # loads the script; without it, reads with counts fall back

    def change() -> None:
        if "delete" in changes:
            backend.catalog.messages.delete(chat.token, 1, 1)
        if "create" in changes:
            backend.acceptor.accept(AcceptRequest.messages(chat.token, 1, ["another"]))

    async def scenario(group: GroupRead) -> None:
        counts = ChangingCounts(group._counts)  # type: ignore[arg-type]  # of a single Redis
        group._counts = counts  # type: ignore[assignment]

        def read() -> RecordedRead:
            return RecordedRead(grouped_reads.CHATS, (chat.token, 1), 1, [chat])

        statements.clear()
        assert await all_results(group, [read()]) != [None]
        assert len(statements) == 2  # nothing was known of the chat
        await asyncio.sleep(0.005)  # uvloop's clock counts milliseconds
        statements.clear()
        counts.change = change
        (rows,) = await all_results(group, [changed := read()])
        assert isinstance(rows, list) is is_answered
        assert len(statements) == looks
        if isinstance(rows, list):
            ((_, removed, *_),) = rows
            created = 1 if changes == "create" else 0
            assert changed.issued[chat] == MESSAGES + created
            assert removed == 0  # before the deletion, which is a moment of the read, too

    run(scenario)


def test_reads_of_one_row_share_a_second_look(
    run: Run, backend: Backend, chat: Parent, statements: list[str]
) -> None:
    """And all of them are answered."""
    backend.counters.read_issued([chat])

    async def scenario(group: GroupRead) -> None:
        statements.clear()
        reads = [RecordedRead(grouped_reads.CHATS, (chat.token, 1), 1, [chat]) for _ in range(5)]
        assert all(await all_results(group, reads))
        assert statements == ["EXECUTE grouped_chats"] * 2

    run(scenario)


def test_a_broken_connection_costs_no_read(run: Run, backend: Backend, chat: Parent) -> None:
    """Its reads fall back, and the next ones use new connections."""

    async def scenario(group: GroupRead) -> None:
        await asyncio.to_thread(end_grouped_connections, backend)
        for _ in range(group_read.CONNECTIONS):
            results = await all_results(group, [message(chat.token, 1)] * 1)
            assert numbers(results) in ([None], [1])
        await connected(group)
        assert numbers(await all_results(group, [message(chat.token, 1)])) == [1]

    run(scenario)


def test_a_connection_that_has_lost_its_statements_is_replaced(
    run: Run, chat: Parent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a connection pooler. The log has no value of the statement."""
    need_sessions()
    monkeypatch.setattr(group_read, "RECONNECT_DELAY_SECONDS", 0)

    async def scenario(group: GroupRead) -> None:
        for connection in group._idle:
            done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            connection.execute("DEALLOCATE ALL", (), done.set_result)
            assert await done == []
        for _ in range(group_read.CONNECTIONS):
            assert numbers(await all_results(group, [message(chat.token, 1)])) in ([None], [1])
        await connected(group)
        assert numbers(await all_results(group, [message(chat.token, 1)])) == [1]

    run(scenario)
    assert "InvalidSqlStatementName, SQLSTATE 26000" in caplog.text
    assert "does not exist" not in caplog.text


def test_after_an_error_connections_are_opened_later(
    run: Run, chat: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permanent one must not make each read open connections."""
    need_sessions()
    monkeypatch.setattr(group_read, "RECONNECT_DELAY_SECONDS", PATIENCE_SECONDS)
    failing = GroupedRead("grouped_unknown", ("tokens",), "SELECT 1")

    async def scenario(group: GroupRead) -> None:
        group._queues[failing] = deque()
        for left in (1, 0, 0):
            results = await all_results(group, [RecordedRead(failing, (chat.token,))])
            assert results == [None]
            await asyncio.sleep(0.01)
            assert group.open_connections == left

    run(scenario)


def test_a_connection_that_closed_while_idle_is_not_used(run: Run, chat: Parent) -> None:
    """No read falls back because of it."""

    async def scenario(group: GroupRead) -> None:
        group._idle[-1].close()
        assert numbers(await all_results(group, [message(chat.token, 1)])) == [1]

    run(scenario)


def end_grouped_connections(backend: Backend) -> None:
    """Terminate the connections that execute grouped reads."""
    need_sessions()
    with backend.database.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND (query LIKE 'EXECUTE%%' OR query LIKE '%%PREPARE grouped%%')"
            " AND pid <> pg_backend_pid()"
        ).all()


def test_reads_of_a_hanging_postgresql_time_out(
    run: Run, chat: Parent, lock: TableLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running ones and the queued ones; the connections are given up, and replaced."""
    monkeypatch.setattr(group_read, "READ_TIMEOUT_SECONDS", 0.3)

    async def scenario(group: GroupRead) -> None:
        await asyncio.to_thread(lock.take)
        reads = [message(chat.token, 1) for _ in range(3)]
        for read in reads:
            group.submit(read)
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*(read.result for read in reads), return_exceptions=True)
        assert [problem_of(result) for result in results] == [problems.CALL_TIMED_OUT] * 3
        await asyncio.to_thread(lock.release)
        await connected(group)
        assert numbers(await all_results(group, [message(chat.token, 1)])) == [1]

    run(scenario)


def test_a_server_process_gives_up_after_its_reader(run: Run) -> None:
    """Otherwise those whose connections were given up would add up while a table is locked."""
    need_sessions()

    async def scenario(group: GroupRead) -> None:
        shown: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        group._idle[0].execute(
            "SELECT setting::int / 1000.0 > %s::float FROM pg_settings"
            " WHERE name IN ('statement_timeout', 'lock_timeout') AND setting::int > 0",
            [str(group_read.READ_TIMEOUT_SECONDS)],
            shown.set_result,
        )
        assert await shown == [(True,), (True,)]

    run(scenario)


def test_the_queue_is_bounded(
    run: Run, chat: Parent, lock: TableLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads beyond the bound are refused at once; those within it are answered.

    An application has at most half of the places, and the others leave less to it.
    """
    monkeypatch.setattr(group_read, "READ_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(group_read, "MAX_WAITING_READS", 10)
    others = [f"another-token-that-is-long-{number}" for number in range(2)]

    async def scenario(group: GroupRead) -> None:
        await asyncio.to_thread(lock.take)
        tokens = [*[chat.token] * 7, *[others[0]] * 3, *[others[1]] * 4]
        results = await all_results(group, [message(token, 1) for token in tokens])
        assert [problem_of(result) for result in results] == [
            *[problems.CALL_TIMED_OUT] * 5,
            *[problems.TOO_MANY_CALLS] * 2,
            *[problems.CALL_TIMED_OUT] * 3,
            *[problems.CALL_TIMED_OUT] * 2,
            *[problems.TOO_MANY_CALLS] * 2,
        ]

    run(scenario)


def problem_of(result: object) -> problems.Problem | None:
    """The problem of a read that failed."""
    return result.problem if isinstance(result, ProblemException) else None


def test_without_redis_reads_with_counts_fail_and_others_are_answered(
    run: Run, backend: Backend, chat: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that wait for the counts get the error of the first call."""
    monkeypatch.setattr(backend.log, "url", "redis://127.0.0.1:1")

    async def scenario(_: GroupRead) -> None:
        async with open_group(backend) as group:
            reads = [
                *(RecordedRead(grouped_reads.CHATS, (chat.token, 1), 1, [chat]) for _ in range(3)),
                message(chat.token, 1),
            ]
            results = await all_results(group, reads)
            assert [isinstance(result, EngineDown) for result in results] == [True] * 3 + [False]
            assert numbers(results) == [None] * 3 + [1]

    run(scenario)


@pytest.mark.parametrize("method", ["shown_counts", "deliver"])
def test_a_read_whose_own_code_fails_gets_the_error(
    run: Run, backend: Backend, chat: Parent, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its client is answered; the others get their rows."""
    backend.counters.read_issued(
        [chat]
    )  # loads the script; without it, reads with counts fall back

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def scenario(group: GroupRead) -> None:
        reads = [
            RecordedRead(grouped_reads.CHATS, (chat.token, 1), 1, [chat]),
            RecordedRead(grouped_reads.CHATS, (chat.token, 1), 1, [chat]),
        ]
        monkeypatch.setattr(reads[0], method, fail)
        error, rows = await all_results(group, reads)
        assert isinstance(error, ZeroDivisionError)
        assert isinstance(rows, list)

    run(scenario)


def test_a_failing_callback_does_not_stop_the_counts(backend: Backend, chat: Parent) -> None:
    """The others are called, and so are the later ones."""

    async def scenario() -> None:
        counts = GroupCount(backend.counters.shard, ThreadCounterClient(backend.log))
        for _ in range(2):
            counted: asyncio.Future[Issued | Exception] = asyncio.get_running_loop().create_future()
            counts.submit([chat], lambda _: 1 // 0)  # type: ignore[arg-type]
            counts.submit([chat], counted.set_result)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await counted == {chat: MESSAGES}
        await counts.close()

    asyncio.run(scenario())


def test_a_failing_callback_does_not_affect_the_others(run: Run, chat: Parent) -> None:
    """Whatever it raises."""

    async def scenario(group: GroupRead) -> None:
        failing, fine = message(chat.token, 1), message(chat.token, 2)
        failing.result.cancel()  # its result can't be set
        group.submit(failing)
        assert numbers(await all_results(group, [fine])) == [2]

    run(scenario)
