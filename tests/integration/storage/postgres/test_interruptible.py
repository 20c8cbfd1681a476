"""Ctrl-C ends a statement that takes hours."""

import signal
import threading

import pytest

from backend.bootstrap import Backend
from backend.storage.postgres.interruptible import run_interruptibly
from tests.conftest import Engines
from tests.support.waiting import wait_until

SLEEP = "SELECT pg_sleep(3600)"
SLEEPING = f"SELECT count(*) FROM pg_stat_activity WHERE query = '{SLEEP}' AND state = 'active'"


def test_an_interrupt_cancels_the_running_statement(backend: Backend, engines: Engines) -> None:
    """And every later one of the same work; the transaction is rolled back."""
    main = threading.main_thread()
    done: list[str] = []

    def interrupt() -> None:
        wait_until(lambda: engines.postgres.query(SLEEPING) == 1)
        assert main.ident
        signal.pthread_kill(main.ident, signal.SIGINT)

    def work() -> None:
        tx.exec_driver_sql("CREATE TABLE half_done ()")
        tx.exec_driver_sql(SLEEP)
        done.append("the statement")

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt), backend.database.begin() as tx:
        run_interruptibly(tx, work)
    interrupting.join()
    assert not done
    assert engines.postgres.query(SLEEPING) == 0
    name = str(backend.database.engine.url.database)
    assert engines.postgres.query("SELECT to_regclass('half_done') IS NULL", name)


def test_the_result_and_an_error_are_those_of_the_work(backend: Backend) -> None:
    with backend.database.begin() as tx:
        assert run_interruptibly(tx, lambda: tx.exec_driver_sql("SELECT 1").scalar()) == 1
        with pytest.raises(ZeroDivisionError):
            run_interruptibly(tx, lambda: 1 // 0)
