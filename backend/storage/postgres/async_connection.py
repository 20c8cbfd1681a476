"""A connection to PostgreSQL for one event loop: one statement at a time, without a thread.

A thread would hand the interpreter over twice for each statement, which takes longer than the statement.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import psycopg2
from psycopg2 import extensions

from backend.domain.errors import EngineDown
from backend.storage.postgres.database import Database
from backend.storage.postgres.driver import (
    CONNECT_TIMEOUT_SECONDS,
    TIME_AS_TEXT,
    Rows,
    is_read_only,
)

RowsCallback = Callable[[Rows | Exception], None]
RunSoon = Callable[[Callable[[], None]], object]
"""Makes a call on the event loop, now or later."""
# Of a statement and its values, in code points; fits into any socket's buffer.
MAX_UNPOLLED_LENGTH = 2_048
FETCHED_ROWS = 64  # at once: with texts of 10,000 characters they take a millisecond


class AsyncConnection:
    """An open connection. Not thread-safe. Times are returned as PostgreSQL's texts.

    After an error of the connection, or `close`, it is closed for good; likewise if the server takes no
    writes any more, because after a failover it does not know what has changed.
    """

    def __init__(self, connection: extensions.connection, run_soon: RunSoon | None = None) -> None:
        """Made by `open`."""
        self._loop = asyncio.get_running_loop()
        self._run_soon = run_soon or self._loop.call_soon
        self._connection = connection
        self._socket = connection.fileno()
        self._cursor: extensions.cursor | None = None  # of the statement that is executed
        self._rows: Rows | None = None  # while they are fetched
        self._callback: RowsCallback | None = None
        self._is_writing = False
        self._has_session = False
        self._was_read_only = is_read_only(connection)
        self._loop.add_reader(self._socket, self._poll)

    @classmethod
    async def open(
        cls,
        database: Database,
        setup: str,
        run_soon: RunSoon | None = None,
    ) -> "AsyncConnection":
        """Connect and, if the connection `has_session`, execute the statements `setup`. Raises EngineDown.

        `run_soon` makes each call that fetches rows, by default the next iteration of the event loop.
        """
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT_SECONDS):
                raw = await asyncio.to_thread(_begin_connecting, database)
                try:
                    await _finish_connecting(raw)
                    extensions.register_type(TIME_AS_TEXT, raw)
                    connection = cls(raw, run_soon)
                    await connection._set_up(raw.info.backend_pid, setup)
                except BaseException:
                    raw.close()
                    raise
        except (psycopg2.Error, TimeoutError) as error:
            reason = f"{error}".strip().partition("\n")[0] or "no answer"
            raise EngineDown(f"PostgreSQL can't be used: {reason}") from error
        return connection

    @property
    def is_open(self) -> bool:
        """Whether statements can be executed."""
        return not self._connection.closed

    @property
    def has_session(self) -> bool:
        """Whether all statements are executed by one process of PostgreSQL, which keeps their settings.

        Not so behind a connection pooler, which gives the statements of a connection to any of its own.
        """
        return self._has_session

    def execute(self, statement: str, values: Sequence[str], callback: RowsCallback) -> None:
        """Execute a statement, then call `callback` with its rows or its error. Not while one is executed.

        The event loop calls the callback; `execute` never does, so that a callback may execute a statement.
        """
        assert self._callback is None
        self._callback = callback
        try:
            self._cursor = self._connection.cursor()  # the last one's would keep its rows
            self._cursor.execute(statement, values)
        except Exception as error:  # noqa: BLE001  # as in `_poll`
            self._loop.call_soon(self._fail, callback, error)
            return
        # A small statement is sent at once: PostgreSQL has read everything before it. Asking would cost a
        # system call.
        if len(statement) + sum(map(len, values)) > MAX_UNPOLLED_LENGTH:
            self._loop.call_soon(self._poll)

    def close(self) -> None:
        """Close the connection. The callback of a statement that is executed is not called any more."""
        self._callback = self._cursor = self._rows = None
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = -1
        self._connection.close()

    async def _set_up(self, connected_to: int, setup: str) -> None:
        """`connected_to` is the process that answered the connection; a pooler makes a number up."""
        try:
            ((process,),) = await self._result("SELECT pg_backend_pid()")
            self._has_session = process == connected_to
            if self._has_session:
                await self._result(setup)
        except BaseException:
            self.close()
            raise

    async def _result(self, statement: str) -> Rows:
        result: asyncio.Future[Rows] = self._loop.create_future()
        self.execute(statement, (), partial(_resolve, result))
        return await result

    def _poll(self) -> None:
        """The socket is ready, or a statement was just sent."""
        if self._rows is not None:
            return
        try:
            state = self._connection.poll()
        except Exception as error:  # noqa: BLE001  # every statement gets a result, whatever is raised
            self._finish(error)
            return
        if (state == extensions.POLL_WRITE) != self._is_writing and self._socket >= 0:
            self._is_writing = not self._is_writing
            if self._is_writing:
                self._loop.add_writer(self._socket, self._poll)
            else:
                self._loop.remove_writer(self._socket)
        if state == extensions.POLL_OK and self._cursor is not None:  # a statement has returned
            self._rows = []
            self._run_soon(partial(self._fetch, self._cursor))

    def _fetch(self, cursor: extensions.cursor) -> None:
        """Fetch some rows: all of many long texts take longer than the event loop should be busy."""
        if cursor is not self._cursor or self._rows is None:  # closed meanwhile
            return
        try:
            if cursor.description is not None:
                rows = cursor.fetchmany(FETCHED_ROWS)
                self._rows += rows
                if len(rows) == FETCHED_ROWS:
                    self._run_soon(partial(self._fetch, cursor))
                    return
        except Exception as error:  # noqa: BLE001  # as in `_poll`
            self._finish(error)
            return
        self._finish(self._rows)  # last: the callback may execute the next statement

    def _fail(self, callback: RowsCallback, error: Exception) -> None:
        """A statement could not be sent. Another error may have been its result in the meantime."""
        if self._callback is callback:
            self._finish(error)

    def _finish(self, result: Rows | Exception) -> None:
        callback, self._callback = self._callback, None
        self._cursor = self._rows = None
        if (
            not self._connection.closed
            and is_read_only(self._connection)
            and not self._was_read_only
        ):
            result = psycopg2.OperationalError("the server takes no writes any more")
        if isinstance(result, psycopg2.OperationalError | psycopg2.InterfaceError):
            self.close()
        if callback is not None:
            callback(result)


def _begin_connecting(database: Database) -> extensions.connection:
    """Begin an asynchronous connection to the host that an ordinary one has chosen. Blocks; for a thread."""
    engine = database.engine
    arguments, options = engine.dialect.create_connect_args(engine.url)
    options = {**options, "connect_timeout": CONNECT_TIMEOUT_SECONDS}
    # libpq tries the hosts of a URL in turn and times out for each of them only if it may block.
    ordinary = psycopg2.connect(*arguments, **options)
    try:
        chosen = {"host": ordinary.info.host, "port": ordinary.info.port}
    finally:
        ordinary.close()
    connection: extensions.connection = psycopg2.connect(
        *arguments, **{**options, **chosen, "async_": True}
    )
    return connection


async def _finish_connecting(raw: extensions.connection) -> None:
    loop = asyncio.get_running_loop()
    while (state := raw.poll()) != extensions.POLL_OK:
        ready = asyncio.Event()
        socket = raw.fileno()
        add, remove = (
            (loop.add_reader, loop.remove_reader)
            if state == extensions.POLL_READ
            else (loop.add_writer, loop.remove_writer)
        )
        add(socket, ready.set)
        try:
            await ready.wait()
        finally:
            remove(socket)


def _resolve(done: asyncio.Future[Rows], result: Rows | Exception) -> None:
    if done.done():
        return
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)
