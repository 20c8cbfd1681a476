"""Numbers after data loss: Redis is wiped, truncated, restored from an old copy, replaced by a replica and
back.

Writers and a drain run all the time, in their own processes. After every fault, what was stored is still
there; the number of anything stored or removed is never answered again; and what was answered and is lost was
not stored when the fault came. A seed sets the order of the faults; INSTACHAT_LOSS_SEEDS=7,8,9 runs these
seeds.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Unavailable
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import RedisServer, free_port, valkey_binary
from tests.support.faults.load import Load, under_load
from tests.support.faults.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

SEEDS = [int(seed) for seed in os.environ.get("INSTACHAT_LOSS_SEEDS", "1").split(",")]
ANSWERS = 150  # between two faults
MAX_CUT_BYTES = 100_000  # bytes of the AOF's tail

Key = tuple[str, int, int]  # token, chat, number
Rows = dict[Key, str | None]  # the text; None once removed


@dataclass
class Fault:
    """A fault that was caused: what was stored before it, as read at `seen`, and when it was over."""

    name: str
    stored: Rows
    seen: int
    over: int = 0


class Answer(NamedTuple):
    """One number that was answered, with the text of its request."""

    text: str
    begin: int
    end: int


class FaultInjector:
    """Causes faults in a Redis that has a replica, behind a proxy."""

    def __init__(self, redis: RedisServer, load: Load, proxy: Proxy, dice: random.Random) -> None:
        self.redis = redis
        self.load = load
        self.proxy = proxy
        self.dice = dice
        self.done: list[Fault] = []
        self.link = Proxy(("127.0.0.1", redis.port))
        self.replica = RedisServer(valkey_binary(), "--replicaof", "127.0.0.1", str(self.link.port))
        self.copy = redis.folder / "copy"

    def run(self) -> None:
        """Cause every fault once, in a random order, with load before and after each."""
        faults = [self.wipe, self.cut_short, self.put_back, self.promote_and_back]
        self.dice.shuffle(faults)
        with open_backend(self.load.settings) as backend:
            for fault in faults:
                self.load.wait_for_answers(ANSWERS)
                shutil.rmtree(self.copy, ignore_errors=True)
                shutil.copytree(self.redis.folder / "appendonlydir", self.copy)
                self.load.wait_for_answers(self.dice.randint(1, ANSWERS))
                if self.dice.random() < 0.5:
                    sync(backend)
                fault(backend)
            self.load.wait_for_answers(ANSWERS)

    def begin(self, backend: Backend, name: str) -> None:
        """Record what is stored."""
        self.done.append(Fault(name, rows(backend), 0))
        self.done[-1].seen = time.monotonic_ns()

    def end(self) -> None:
        """Record that the fault is over: later requests meet its result."""
        self.done[-1].over = time.monotonic_ns()

    def wipe(self, backend: Backend) -> None:
        """FLUSHALL."""
        self.begin(backend, "wipe")
        self.redis.client().flushall()
        self.end()

    def cut_short(self, backend: Backend) -> None:
        """Killed, and started with a truncated AOF."""
        self.begin(backend, "cut short")
        self.redis.kill()
        aof = max((self.redis.folder / "appendonlydir").glob("*.incr.aof"))
        size = aof.stat().st_size
        os.truncate(aof, size - self.dice.randint(1, min(size, MAX_CUT_BYTES)))
        self.redis.start()
        self.end()

    def put_back(self, backend: Backend) -> None:
        """Killed, and started with an old copy of its data."""
        self.begin(backend, "put back")
        self.redis.kill()
        data = self.redis.folder / "appendonlydir"
        shutil.rmtree(data)
        shutil.copytree(self.copy, data)
        self.redis.start()
        self.end()

    def promote_and_back(self, backend: Backend) -> None:
        """A replica that is behind becomes primary; later the old one, which never stopped, comes back."""
        self.replica.start()
        wait_until(lambda: self.replica.client().info("replication")["master_link_status"] == "up")
        self.load.wait_for_answers(20)
        self.link.lead_to(("127.0.0.1", free_port()))  # nothing listens there
        self.load.wait_for_answers(self.dice.randint(20, ANSWERS))
        self.begin(backend, "promote")
        self.replica.client().replicaof("NO", "ONE")
        self.proxy.lead_to(("127.0.0.1", self.replica.port))
        self.end()
        self.load.wait_for_answers(ANSWERS)
        # A process that has not seen the replica's epoch would accept in the demoted primary.
        self.load.wait_for_every_writer()
        self.begin(backend, "back")
        self.proxy.lead_to(("127.0.0.1", self.redis.port))
        self.end()


def sync(backend: Backend) -> None:
    """Sync the counters to SQL, if Redis permits it."""
    try:
        for _ in backend.counter_sync.sync():
            pass
    except Unavailable:
        return


def rows(backend: Backend) -> Rows:
    """All messages that are stored now."""
    with backend.database.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT token, c.number, m.number, CASE m.state WHEN 'stored' THEN m.text END"
            " FROM message m JOIN chat c ON c.id = chat_id JOIN application a ON a.id = application_id"
        )
        return {(token, chat, number): text for token, chat, number, text in found}


def answers(ledgers: list[Path]) -> dict[Key, list[Answer]]:
    """Everything that was answered, in the order of answering."""
    found: dict[Key, list[Answer]] = {}
    for path in ledgers:
        for line in map(json.loads, path.read_text().splitlines()):
            if line["first"] is not None:
                for number, text in enumerate(line["texts"], line["first"]):
                    key = line["token"], line["chat"], number
                    found.setdefault(key, []).append(Answer(text, line["begin"], line["end"]))
    for mine in found.values():
        mine.sort(key=lambda answer: answer.end)
    return found


@pytest.fixture
def injected(
    engines: Engines, own_redis: RedisServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[FaultInjector]:
    """A load that ran through every fault, and has ended."""
    with closing(Proxy(("127.0.0.1", own_redis.port))) as proxy:
        settings = Settings(
            database_url=engines.fresh_database(), redis_url=f"redis://127.0.0.1:{proxy.port}"
        )
        with under_load(settings, tmp_path) as load:
            wrecker = FaultInjector(own_redis, load, proxy, random.Random(request.param))
            try:
                with open_backend(settings) as backend:
                    backend.drainer.drain_all()  # the chats that exist at the start
                load.work()
                load.write(processes=2, writers=2)
                wrecker.run()
                yield wrecker
            finally:
                wrecker.link.close()
                wrecker.replica.remove()


@pytest.mark.scale("Redis: wiped, cut short, restored from a copy, replaced by a replica that lags")
@pytest.mark.parametrize("injected", SEEDS, indirect=True)
def test_a_loss_of_redis_loses_no_stored_message_and_issues_no_number_again(
    injected: FaultInjector,
) -> None:
    """This holds for every loss, in any order. Lost messages were not stored; `reconcile` reports traces.

    Of a number that two primaries have issued it reports that until an operator has decided.
    """
    with injected.load.ended() as backend:
        stored = rows(backend)
        given = answers(injected.load.ledgers)
        for fault in injected.done:
            for key, text in fault.stored.items():
                assert stored[key] == text, fault.name
                again = [a for a in given.get(key, ()) if a.begin > fault.seen]
                assert not again, f"{key} was stored, and given again after {fault.name}"
        for key, mine in given.items():
            for answer in mine:
                if stored.get(key) != answer.text:
                    assert may_be_lost(injected.done, key, answer.begin), f"{key} is gone"
            for first, second in pairwise(mine):
                assert may_be_lost(injected.done, key, first.begin, second.end), f"{key} came twice"
        assert len(given) > 4 * ANSWERS
        kinds = {finding.kind for finding in backend.reconciler.begin(repair=True).findings()}
        assert kinds <= {"gap_unexplained", "counter_ahead", "count_differs", "duplicate_number"}
        for left in backend.reconciler.begin().findings():
            # Issued by a primary that lagged, too, before the former one came back with its log.
            assert left.kind == "duplicate_number"
            twice = (left.token, left.chat, left.number)
            assert any(twice not in fault.stored for fault in injected.done)
        highest = {key[:2]: key[2] for key in sorted(stored)}
        for (token, chat), number in highest.items():
            assert (
                backend.acceptor.accept(AcceptRequest.messages(token, chat, ["x"])).first > number
            )


def may_be_lost(faults: list[Fault], key: Key, begin: int, end: int | None = None) -> bool:
    """Whether an answer may be lost: it was not stored when a fault came that was not over when it began.

    With `end`, whether the same number may have been issued again by then.
    """
    return any(
        key not in fault.stored and begin < fault.over and (end is None or end > fault.seen)
        for fault in faults
    )
