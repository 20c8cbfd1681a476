"""Outages of Elasticsearch, on a node that only these tests use, with a real worker."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Unavailable
from backend.ingest.requests import AcceptRequest
from backend.monitoring.status import read_status
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.elasticsearch.mapping import new_index_name
from backend.storage.search_index import Document
from instachat_cli.runtime.supervisor import spawn_worker
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import new_node_or_skip
from tests.support.elasticsearch.nodes import Node
from tests.support.elasticsearch.requests import (
    live_index_name,
    publish_all,
    query_rows,
    request_elasticsearch,
    search_numbers,
    unpublished_messages,
)
from tests.support.waiting import MARGIN_SECONDS, PATIENCE_SECONDS, promised, wait_until

pytestmark = pytest.mark.xdist_group("elasticsearch outage")
MAX_REQUEST_BYTES = 80_000  # bytes of a request
BATCH = 500


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node that accepts only small requests."""
    node = new_node_or_skip(
        {
            "http.max_content_length": f"{MAX_REQUEST_BYTES}b",
            "indexing_pressure.memory.limit": "150kb",
        }
    )
    try:
        node.start()
        yield node
    finally:
        node.remove()


@pytest.fixture
def core(engines: Engines, node: Node) -> Iterator[Backend]:
    """A backend on a new database and an empty Redis, whose index is in that node."""
    with open_backend(engines.settings(elasticsearch_url=node.url)) as core:
        yield core


@contextmanager
def running_worker(core: Backend, worker_log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A worker process on that backend's settings, running; it ends with the block."""
    settings = core.settings
    given = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "ELASTICSEARCH_URL": settings.elasticsearch_url,
    }
    with pytest.MonkeyPatch.context() as environment, worker_log.open("wb") as log:
        for name in [name for name in os.environ if name.startswith("INSTACHAT_")]:
            environment.delenv(name)
        for name, value in given.items():
            environment.setenv(f"INSTACHAT_{name}", str(value))
        worker = spawn_worker(stderr=log.fileno())
    try:
        wait_until(lambda: core.workers.count() > 0)
        yield worker
    finally:
        worker.terminate()
        worker.wait(PATIENCE_SECONDS)
        assert worker.stdin is not None
        worker.stdin.close()


class MessageSender:
    """Sends messages to a chat and counts those that were accepted."""

    def __init__(self, core: Backend, token: str) -> None:
        self.core = core
        self.token = token
        self.sent = 0

    def send(self, count: int) -> float:
        """Send `count` messages and wait until the worker has stored them; returns the seconds it took."""
        since = time.monotonic()
        for start in range(0, count, BATCH):
            texts = [f"line {self.sent + n}" for n in range(min(BATCH, count - start))]
            accepted = self.core.acceptor.accept(AcceptRequest.messages(self.token, 1, texts))
            self.sent = accepted.last
        assert self.core.catalog.waiting.wait_stored(self.token, accepted, PATIENCE_SECONDS)
        return time.monotonic() - since

    def all_are_found(self) -> bool:
        """Whether a search finds all of them."""
        return search_numbers(self.core, self.token, "line") == list(range(1, self.sent + 1))


def test_an_outage_of_elasticsearch_under_load_loses_no_message(
    core: Backend, token: str, node: Node, tmp_path: Path
) -> None:
    """While the node is killed, storing continues, the lag is shown, and one warning is logged.

    Searches find all messages during the outage and afterwards. A deleted message stays deleted, although an
    older creation is written after the restart of the shard.
    """
    sender, worker_log = MessageSender(core, token), tmp_path / "worker_log"
    with running_worker(core, worker_log) as worker:
        sender.send(2_000)
        wait_until(sender.all_are_found)
        core.catalog.messages.delete(token, 1, 7)
        wait_until(lambda: unpublished_messages(core) == 0)
        ((chat_id, version),) = query_rows(
            core, "SELECT chat_id, version FROM message WHERE number = 7"
        )

        node.kill()
        seconds = [sender.send(2_000) for _ in range(3)]
        assert max(seconds) < 10 + MARGIN_SECONDS  # storing does not wait for Elasticsearch
        status = read_status(core.database, core.log, core.workers, core.jobs.length, core.index)
        assert status.unpublished == 6_000
        assert status.unpublished_seconds is not None
        assert [engine.problem is None for engine in status.engines] == [True, True, False]
        with promised(5):
            numbers = search_numbers(core, token, "line")
        assert numbers == [n for n in range(1, sender.sent + 1) if n != 7]
        time.sleep(5)  # two more attempts, which are not logged
        said = worker_log.read_text()
        assert said.count("can't be used") == 1, said

        node.start()
        wait_until(lambda: unpublished_messages(core) == 0)
        assert worker.poll() is None
    assert "publishing works again" in worker_log.read_text()
    assert core.index is not None
    late = Document(chat_id, 7, version - 1, "line that was deleted")
    assert core.index.write(live_index_name(core), [late]) == []
    request_elasticsearch(core, "POST", f"/{live_index_name(core)}/_refresh")
    assert core.index.candidates(live_index_name(core), chat_id, "deleted", 0, 10) == []
    numbers = search_numbers(core, token, "line")
    assert numbers == [n for n in range(1, sender.sent + 1) if n != 7]


def test_a_hanging_node_delays_neither_storing_nor_stopping(
    core: Backend, token: str, node: Node, tmp_path: Path
) -> None:
    """The node is suspended by SIGSTOP: it accepts connections, but does not answer."""
    sender = MessageSender(core, token)
    with running_worker(core, tmp_path / "worker_log") as worker:
        sender.send(1_000)
        wait_until(sender.all_are_found)
        node.send(signal.SIGSTOP)
        try:
            assert max(sender.send(1_000) for _ in range(3)) < 10 + MARGIN_SECONDS
            with promised(5):
                assert sender.all_are_found()
            worker.terminate()
            with promised(10):
                assert worker.wait(PATIENCE_SECONDS) == 0
        finally:
            node.send(signal.SIGCONT)
    # The worker released its leases when it stopped, so publishing need not wait for them.
    assert query_rows(core, "SELECT count(*) FROM outbox WHERE leased_until IS NOT NULL") == [(0,)]
    with running_worker(core, tmp_path / "worker_log"):
        wait_until(lambda: unpublished_messages(core) == 0)
    request_elasticsearch(core, "POST", f"/{live_index_name(core)}/_refresh")
    assert sender.all_are_found()


def test_a_request_that_is_too_large_is_sent_in_parts(core: Backend, token: str) -> None:
    """After a 413 it is halved until it fits; a message that never fits becomes a dead letter."""
    texts = ["long " * 1_000] * 40  # 5 kB each, 200 kB together
    # One code point of it becomes eighteen: this is 360 kB.
    core.acceptor.accept(
        AcceptRequest.messages(
            token, 1, [*texts, "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 10_000]
        )
    )
    core.drainer.drain_all()
    assert publish_all(core) == 41
    assert search_numbers(core, token, "long long") == list(range(1, 41))
    assert query_rows(core, "SELECT kind, number, reason FROM dead_letter") == [
        ("publish", 41, "the message is too long for one request to Elasticsearch")
    ]


def test_a_bulk_that_is_refused_for_now_is_repeated(core: Backend, node: Node) -> None:
    """Six bulks at once are more than this node accepts; in the end each of them is written.

    The test repeats them until the node has refused something.
    """
    index, name = ElasticsearchIndex(node.url), new_index_name("busy")
    index.create(name)
    documents = [Document(1, n, 1, f"{n} " + "x" * 1_500) for n in range(1, 241)]

    failures: list[Unavailable] = []

    def write(part: list[Document]) -> None:
        for _ in range(4):
            wait_until(lambda: written(part))

    def written(part: list[Document]) -> bool:
        try:
            return index.write(name, part) == []
        except (
            Unavailable
        ) as error:  # every repetition was refused, too: a publisher tries again later
            failures.append(error)
            return False

    def refused() -> int:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(write, [documents[at::6] for at in range(6)]))
        stats = request_elasticsearch(core, "GET", "/_nodes/stats/indexing_pressure")
        (pressure,) = (one["indexing_pressure"]["memory"] for one in stats["nodes"].values())
        return int(pressure["total"]["coordinating_rejections"])

    before = refused()
    wait_until(lambda: refused() > before)
    assert refused() > len(failures)  # so some refusals were followed by a repetition
    request_elasticsearch(core, "POST", f"/{name}/_refresh")
    assert request_elasticsearch(core, "GET", f"/{name}/_count")["count"] == 240
    index.drop(name)
    index.close()
