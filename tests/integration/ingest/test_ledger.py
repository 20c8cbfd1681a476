"""What was answered survives kill -9: of drains at named points and at random, of Redis, and of writers."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.bootstrap import open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import RedisServer
from tests.support.faults.load import drain_completely
from tests.support.faults.writer import ENDLESS
from tests.support.fork_server import ForkedProcess, start_module
from tests.support.ledger import Audit, audit
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.faults

SEEDS = [1]
KILLS = 8  # of drains at random, with each seed


class LedgerLoad:
    """Writers and drains on one installation, as processes that can be killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.writers: list[ForkedProcess] = []
        self.drains: list[ForkedProcess] = []
        self.ledgers: list[Path] = []

    def write(
        self, token: str, chats: int, messages: int, batch: int, seed: object, writers: int = 1
    ) -> None:
        """Start writers, each with its own ledger."""
        ledger = self.folder / f"ledger-{len(self.ledgers)}"
        ledgers = [ledger, *(Path(f"{ledger}-{nth}") for nth in range(1, writers))]
        for file in ledgers:
            file.touch()
        self.ledgers += ledgers
        self.writers.append(
            self._start("writer", ledger, token, chats, messages, batch, seed, writers)
        )

    def drain(self, step: str = "", nth: int = 1) -> ForkedProcess:
        """Start a drain that kills itself at a step."""
        process = self._start("drainer", step, nth)
        self.drains.append(process)
        return process

    def _start(self, module: str, *arguments: object) -> ForkedProcess:
        urls = [self.settings.database_url, self.settings.redis_url]
        return start_module(
            f"tests.support.faults.{module}", *urls, *arguments, environment=os.environ
        )

    @property
    def writing(self) -> bool:
        """Whether any writer still writes."""
        return any(writer.poll() is None for writer in self.writers)

    def wait_until_writing(self) -> None:
        """Wait until every writer has an answer."""
        wait_until(lambda: all(ledger.stat().st_size for ledger in self.ledgers))
        assert self.writing

    def achieve(self, requests: int) -> None:
        """Wait until so many requests have an answer, or an unknown result, since the beginning."""
        wait_until(lambda: sum(path.read_bytes().count(b"\n") for path in self.ledgers) >= requests)

    def stop_writers(self) -> None:
        """Tell the writers to stop."""
        for writer in self.writers:
            writer.terminate()

    def finish(self) -> Audit:
        """Wait for the writers, end the drains, drain the rest, and compare it with the ledgers."""
        for writer in self.writers:
            assert writer.wait(PATIENCE_SECONDS) == 0
        self.end()
        with open_backend(self.settings) as backend:
            drain_completely(backend)
            return audit(backend, self.ledgers)

    def end(self) -> None:
        """Kill the processes that still run."""
        for process in (*self.drains, *self.writers):
            process.kill()
            process.wait()


@pytest.fixture
def load(engines: Engines, own_redis: RedisServer, tmp_path: Path) -> Iterator[LedgerLoad]:
    """A load on a database and a Redis of its own."""
    settings = Settings(database_url=engines.fresh_database(), redis_url=own_redis.url)
    load = LedgerLoad(settings, tmp_path)
    yield load
    load.end()


def application_with_chats(settings: Settings, chats: int) -> str:
    """The token of a new application with so many chats."""
    with open_backend(settings) as backend:
        token = backend.catalog.applications.create("ledger").token
        for _ in range(0, chats, 1000):
            backend.acceptor.accept(AcceptRequest.chats(token, min(chats, 1000)))
    return token


@pytest.mark.parametrize("step", ["read", "rows", "committed", "trimmed"])
def test_a_drain_killed_at_a_named_step_stores_each_message_once(
    load: LedgerLoad, step: str
) -> None:
    """kill -9 comes after reading, after the rows, after the commit and after the trim, three times each."""
    token = application_with_chats(load.settings, 3)
    for seed in range(3):
        load.write(token, 3, 400, 5, seed)
        assert load.drain(step).wait(PATIENCE_SECONDS) == -signal.SIGKILL
    load.drain()
    result = load.finish()
    assert result.answered == 1200
    assert not result.faults


@pytest.mark.parametrize("seed", SEEDS)
def test_drains_killed_at_random_under_load_store_each_message_once(
    load: LedgerLoad, seed: int
) -> None:
    """Of two drains, one is killed repeatedly, while four writers write."""
    dice = random.Random(seed)
    token = application_with_chats(load.settings, 3)
    for writer in range(4):
        load.write(token, 3, ENDLESS, 10, f"{seed}-{writer}")
    working = [load.drain(), load.drain()]
    load.wait_until_writing()
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.2, 1.0))
        victim = dice.randrange(2)
        working[victim].kill()
        working[victim] = load.drain()
    load.achieve(500)
    assert load.writing
    load.stop_writers()
    result = load.finish()
    assert result.answered > 1000
    assert not result.faults


@pytest.mark.parametrize("seed", SEEDS)
def test_no_answered_message_is_lost_when_redis_is_killed_under_load(
    load: LedgerLoad, own_redis: RedisServer, seed: int
) -> None:
    """Under `strict`, an answered message is on Redis's disk."""
    dice = random.Random(seed)
    token = application_with_chats(load.settings, 3)
    for writer in range(4):
        load.write(token, 3, ENDLESS, 10, f"{seed}-{writer}")
    load.drain()
    load.drain()
    load.wait_until_writing()
    for _ in range(3):
        time.sleep(dice.uniform(0.2, 0.6))
        assert load.writing, "the load was over before the fault"
        own_redis.kill()
        time.sleep(dice.uniform(0, 0.2))
        own_redis.start()
    load.achieve(500)
    load.stop_writers()
    result = load.finish()
    assert not result.faults
    assert result.answered > 1000


def test_a_batch_is_in_the_log_as_a_whole_or_not_at_all(load: LedgerLoad) -> None:
    """This holds even if its writer is killed."""
    token = application_with_chats(load.settings, 1)
    for seed in range(4):
        load.write(token, 1, 100_000, 50, seed)
    load.drain()
    load.wait_until_writing()
    time.sleep(0.5)
    for writer in load.writers:
        writer.kill()
        writer.wait()
    load.writers.clear()
    result = load.finish()
    assert result.answered
    # At most one batch per writer: accepted, and killed before it was recorded.
    assert result.faults.keys() <= {"unexpected"}
    assert len(result.unexpected) <= 4 * 50


@pytest.mark.parametrize("chats", [1, 300])
def test_sixteen_concurrent_writers_get_numbers_without_gaps_or_duplicates(
    load: LedgerLoad, chats: int
) -> None:
    """They are processes that write to one chat, or to many."""
    token = application_with_chats(load.settings, chats)
    load.write(token, chats, 60, 1, "one of", writers=16)
    load.drain()
    load.drain()
    result = load.finish()
    assert result.answered == 16 * 60
    assert not result.faults


def test_the_audit_reports_each_kind_of_fault(load: LedgerLoad) -> None:
    """It finds a lost, a duplicate, a changed and an unexpected message, so the tests above can fail."""
    token = application_with_chats(load.settings, 1)
    load.write(token, 1, 5, 1, "honest")
    assert not load.finish().faults
    book = load.ledgers[0]
    honest = book.read_text().splitlines()
    with open_backend(load.settings) as backend:
        for lines, kind in [
            ([*honest, honest[0].replace('"first": 1', '"first": 9')], "lost"),
            ([*honest, honest[0]], "repeated"),
            ([honest[0].replace("honest", "forged"), *honest[1:]], "wrong"),
            (honest[1:], "unexpected"),
        ]:
            book.write_text("\n".join(lines))
            assert kind in audit(backend, [book]).faults
