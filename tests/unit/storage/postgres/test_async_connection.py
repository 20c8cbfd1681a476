"""What the event loop watches while statements are sent, with a connection whose states are scripted."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from typing import Any, cast

import psycopg2
import pytest
from psycopg2 import extensions

from backend.storage.postgres.async_connection import (
    FETCHED_ROWS,
    MAX_UNPOLLED_LENGTH,
    AsyncConnection,
)
from backend.storage.postgres.driver import Rows
from tests.support.waiting import PATIENCE_SECONDS

OK, WRITE = extensions.POLL_OK, extensions.POLL_WRITE
LONG = "x" * (MAX_UNPOLLED_LENGTH + 1)


class ScriptedConnection:
    """Takes the place of psycopg2's connection and of its cursor. `states` are what `poll` returns."""

    description = "columns"
    closed = False

    def __init__(self, of: socket.socket) -> None:
        self._socket = of
        self.states: list[int] = []
        self.rows: Rows = [(1,)]  # of the next statements, until they are fetched
        self.error: psycopg2.Error | None = None  # of the next statement

    def fileno(self) -> int:
        """The socket that is watched."""
        return self._socket.fileno()

    def get_parameter_status(self, _: str) -> str:
        """What the server has reported."""
        return "off"

    def cursor(self) -> "ScriptedConnection":
        """A cursor."""
        return self

    def execute(self, _: str, __: Sequence[str]) -> None:
        """Send a statement."""
        if self.error is not None:
            raise self.error

    def fetchmany(self, count: int) -> Rows:
        """The next rows of a statement."""
        fetched, self.rows = self.rows[:count], self.rows[count:]
        return fetched

    def poll(self) -> int:
        """The next state; the last one remains."""
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def close(self) -> None:
        """Close it."""
        self.closed = True


@pytest.fixture
def scripted() -> Iterator[ScriptedConnection]:
    """A connection whose socket can be written to, and is never ready to be read from."""
    ours, others = socket.socketpair()
    with ours, others:
        yield ScriptedConnection(ours)


def test_a_statement_that_a_callback_executes_is_sent_completely(
    scripted: ScriptedConnection,
) -> None:
    """Its first part is sent while the result of the one before is handled."""

    async def scenario() -> None:
        connection = AsyncConnection(cast(Any, scripted))
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        scripted.states = [WRITE, OK, WRITE, OK]

        def send_again(rows: Rows | Exception) -> None:
            assert rows == [(1,)]
            scripted.rows = [(2,)]
            connection.execute(LONG, (), done.set_result)

        connection.execute(LONG, (), send_again)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await done == [(2,)]
        connection.close()

    asyncio.run(scenario())


def test_a_statement_that_cannot_be_sent_fails_later(scripted: ScriptedConnection) -> None:
    """A callback that always executes another one does not call itself."""

    async def scenario() -> None:
        connection = AsyncConnection(cast(Any, scripted))
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        scripted.error = psycopg2.ProgrammingError("refused")
        left = 5_000

        def repeat(result: Rows | Exception) -> None:
            nonlocal left
            left -= 1
            if left:
                connection.execute("", (), repeat)
            else:
                done.set_result(result)

        connection.execute("", (), repeat)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await done is scripted.error
        connection.close()

    asyncio.run(scenario())


def test_many_rows_are_fetched_in_slices(scripted: ScriptedConnection) -> None:
    """What has arrived meanwhile has its turn between them. A connection that is closed fetches no more."""
    rows: Rows = [(number,) for number in range(2 * FETCHED_ROWS)]

    async def scenario() -> None:
        connection = AsyncConnection(cast(Any, scripted))
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        scripted.states, scripted.rows = [OK], rows
        connection.execute(LONG, (), done.set_result)
        left = []
        while not done.done():
            await asyncio.sleep(0)
            left.append(len(scripted.rows))
        assert left[:4] == [2 * FETCHED_ROWS, FETCHED_ROWS, 0, 0]
        assert await done == rows

        scripted.rows = rows
        connection.execute(LONG, (), lambda _: pytest.fail("it is closed"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(scripted.rows) == FETCHED_ROWS
        connection.close()
        await asyncio.sleep(0)
        assert len(scripted.rows) == FETCHED_ROWS

    asyncio.run(scenario())
