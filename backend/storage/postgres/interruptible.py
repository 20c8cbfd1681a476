"""Statements that may take hours, and end at Ctrl-C."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from backend.storage.postgres.database import Connection

T = TypeVar("T")
CANCEL_INTERVAL_SECONDS = 0.1


def run_interruptibly(connection: Connection, work: Callable[[], T]) -> T:
    """Call `work`, which uses the connection, in a thread; a KeyboardInterrupt cancels its statements.

    The driver waits for a reply in C, where Python notices no signal: Ctrl-C would come when the statement
    has ended. The KeyboardInterrupt is raised once `work` has ended.
    """
    driver: Any = connection.connection.dbapi_connection
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            while not wait(
                [future], CANCEL_INTERVAL_SECONDS
            ).done:  # it may be between two statements
                driver.cancel()
            raise
