"""A master of a cluster is killed under load: with INSTACHAT_DURABLE_REPLICAS, its replica has every answer.

INSTACHAT_CLUSTER_SEEDS=7,8 kills masters with these seeds, one after another.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from backend.api.server.cluster_commit import ClusterCommit
from backend.bootstrap import Backend, open_unchecked
from backend.domain.errors import Unavailable, Unconfirmed
from backend.ingest.requests import AcceptRequest
from tests.conftest import Engines
from tests.support.faults.load import drain_completely
from tests.support.faults.scale_table import Record, record_audit
from tests.support.ledger import Ledger, audit
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("redis cluster")]

SEEDS = [int(seed) for seed in os.environ.get("INSTACHAT_CLUSTER_SEEDS", "1").split(",")]
WRITERS = 24  # each with a chat of its own; enough applications for every node
RETRY_SECONDS = 0.02
REPLY_SECONDS = 3.0


class Writers:
    """Writers in one process, each of which sends a message after another until it is told to stop."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self._backend = backend
        self.ledgers = [folder / f"ledger-{number}" for number in range(WRITERS)]
        self.answers = [0] * WRITERS
        self._stopping = False

    async def run(self, harm: Callable[[], Awaitable[None]]) -> None:
        """Write until `harm` has ended, and each writer has an answer after that."""
        commit = ClusterCommit(self._backend.acceptor, self._backend.log)
        async with asyncio.TaskGroup() as writing:
            for number in range(WRITERS):
                writing.create_task(self._write(commit, number))
            await harm()
            await self.wait_for_answers(1)
            self._stopping = True
        await commit.close()

    async def wait_for_answers(self, answers: int) -> None:
        """Wait until each writer has so many more answers."""
        wanted = [answered + answers for answered in self.answers]
        while any(answered < least for answered, least in zip(self.answers, wanted, strict=True)):
            await asyncio.sleep(RETRY_SECONDS)

    async def _write(self, commit: ClusterCommit, number: int) -> None:
        backend = self._backend
        token = (await asyncio.to_thread(backend.catalog.applications.create, f"{number}")).token
        chat = (await asyncio.to_thread(backend.acceptor.accept, AcceptRequest.chats(token))).first
        book = Ledger(self.ledgers[number])
        sent = 0
        while not self._stopping:
            texts = [f"{number} {sent}"]
            sent += 1
            try:
                accepted = await commit.accept(AcceptRequest.messages(token, chat, texts))
            except Unconfirmed:
                book.record_uncertain(token, chat, texts)
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                book.record_answer(token, chat, accepted.first, texts)
                self.answers[number] += 1


@pytest.mark.scale("Redis Cluster: a master is killed, and its replica, which lags, restarts")
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_master_loses_no_answer_that_replicas_have(
    engines: Engines,
    redis_cluster: RedisCluster,
    tmp_path: Path,
    seed: int,
    record_property: Record,
) -> None:
    """Nothing was stored before, so only Redis has the messages. A replica that has lagged takes over."""
    dice = random.Random(seed)
    settings = engines.on_cluster(redis_cluster, durable_replicas=1)

    async def scenario(backend: Backend) -> None:
        writers = Writers(backend, tmp_path)

        async def kill_a_master() -> None:
            # Nodes are not started in a thread, with whose end they would end.
            await writers.wait_for_answers(dice.randint(1, 10))
            master = dice.choice(redis_cluster.masters)
            (replica,) = redis_cluster.replicas_of(master)
            replica.suspend()
            await asyncio.sleep(dice.random())
            master.kill()
            replica.kill()  # so that it does not read either what its connection has received
            replica.start()
            await asyncio.to_thread(wait_until, lambda: replica in redis_cluster.masters)
            master.start()  # as the replica that the other one needs now

        await asyncio.wait_for(writers.run(kill_a_master), PATIENCE_SECONDS)

    with open_unchecked(settings, reply_timeout_seconds=REPLY_SECONDS) as backend:
        uvloop.run(scenario(backend))
        redis_cluster.heal()
        drain_completely(backend)
        found = audit(backend, [tmp_path / f"ledger-{number}" for number in range(WRITERS)])
    record_audit(record_property, found)
    assert found.answered >= 2 * WRITERS
    assert found.faults == {}
