"""Connections of an event loop: statements, errors, and what a lost connection does."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg2
import pytest
import uvloop

from backend.domain.errors import EngineDown
from backend.storage.postgres.async_connection import AsyncConnection
from backend.storage.postgres.database import Database
from backend.storage.postgres.driver import Rows
from tests.conftest import Engines
from tests.support.engines import free_port
from tests.support.pgbouncer import need_sessions
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Awaitable[None]], None]


async def execute(connection: AsyncConnection, statement: str, *values: str) -> Rows:
    """The rows of a statement; raises its error."""
    done: asyncio.Future[Rows | Exception] = asyncio.get_running_loop().create_future()
    connection.execute(statement, values, done.set_result)
    async with asyncio.timeout(PATIENCE_SECONDS):
        result = await done
    if isinstance(result, Exception):
        raise result
    return result


def test_statements_are_executed_one_after_the_other(engines: Engines, run: Run) -> None:
    """Also behind one that failed, and with values and results larger than a socket's buffer."""

    async def scenario() -> None:
        database = Database(engines.bare_database())
        connection = await AsyncConnection.open(database, "SET TimeZone = 'UTC'")
        try:
            assert await execute(connection, "SELECT 1, NULL::timestamptz") == [(1, None)]
            with pytest.raises(psycopg2.errors.DivisionByZero):
                await execute(connection, "SELECT 1/0")
            (row,) = await execute(connection, "SELECT repeat('x', 10000000)")
            assert len(row[0]) == 10_000_000
            sent = "y" * 5_000_000
            assert await execute(connection, "SELECT length(%s)", sent) == [(len(sent),)]
            at = "timestamptz '2026-01-31 12:00:00.5+02'"
            assert await execute(connection, f"SELECT {at}") == [("2026-01-31 10:00:00.5+00",)]
            assert connection.is_open
        finally:
            connection.close()
            database.close()

    run(scenario())


def test_a_lost_connection_is_closed_and_its_statement_fails(engines: Engines, run: Run) -> None:
    """While a statement is executed, and while it is idle."""
    need_sessions()

    async def scenario() -> None:
        database = Database(engines.bare_database())
        other = await AsyncConnection.open(database, "SELECT 1")
        try:
            for statement in ("SELECT pg_sleep(100)", None):
                connection = await AsyncConnection.open(database, "SELECT 1")
                ((pid,),) = await execute(connection, "SELECT pg_backend_pid()")
                running = (
                    asyncio.ensure_future(execute(connection, statement)) if statement else None
                )
                await asyncio.sleep(0)  # it is sent
                await execute(other, f"SELECT pg_terminate_backend({pid})")
                if running:
                    with pytest.raises(psycopg2.OperationalError):
                        await running
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while connection.is_open:
                        await asyncio.sleep(0.01)
        finally:
            other.close()
            database.close()

    run(scenario())


def test_without_postgresql_opening_fails(run: Run) -> None:
    """As every use of the database does."""

    async def scenario() -> None:
        database = Database(f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere")
        with pytest.raises(EngineDown):
            await AsyncConnection.open(database, "SELECT 1")
        database.close()

    run(scenario())
