"""A node of an Elasticsearch cluster is lost, under load."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import Unavailable
from backend.ingest.requests import AcceptRequest
from backend.search.refresh import Refresher
from backend.search.searcher import IndexSearcher
from backend.storage.elasticsearch import index as elasticsearch_index
from tests.conftest import Engines, skip_absent
from tests.support.elasticsearch.cluster import ElasticsearchCluster
from tests.support.elasticsearch.provision import NotAvailable
from tests.support.elasticsearch.requests import (
    live_index_name,
    publisher,
    query_rows,
    search_numbers,
    store_messages,
    unpublished_messages,
)
from tests.support.faults.pace import pause
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.xdist_group("elasticsearch cluster")
SEARCHERS = 3
SEARCHES = 30  # before the node is lost, and afterwards


@pytest.fixture
def cluster() -> Iterator[ElasticsearchCluster]:
    """Three nodes."""
    try:
        cluster = ElasticsearchCluster()
    except NotAvailable as reason:
        skip_absent(f"Elasticsearch as a process ({reason})")
        raise
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


class Load:
    """Searches, and messages that are stored and published meanwhile."""

    def __init__(self, core: Backend, token: str) -> None:
        self.core = core
        self.token = token
        self.stored = 0
        """How many messages of chat 1 are stored; each contains "word"."""
        self.searches = 0
        self.failures: list[str] = []
        self._ending = threading.Event()

    def run(self, stack: ExitStack) -> None:
        """Start; the load ends with the stack."""
        steps = [self._search] * SEARCHERS + [self._store, self._publish]
        threads = [threading.Thread(target=self._repeat, args=[step]) for step in steps]

        def end() -> None:
            self._ending.set()
            for thread in threads:
                thread.join()

        stack.callback(end)
        for thread in threads:
            thread.start()

    def continue_for(self, searches: int) -> None:
        """Return after so many more searches, or a failure."""
        goal = self.searches + searches
        wait_until(lambda: self.searches >= goal or self.failures)

    def _repeat(self, step: Callable[[], object]) -> None:
        while not self._ending.is_set():
            try:
                step()
            except Exception as error:
                self.failures.append(repr(error))
                raise
            pause()

    def _search(self) -> None:
        """Ask the index itself: PostgreSQL would stand in for it."""
        core = self.core
        ((chat_id,),) = query_rows(core, "SELECT id FROM chat")
        assert core.index is not None
        IndexSearcher(core.database, core.index).first_candidates(
            live_index_name(core), chat_id, "word", 0, 100
        )
        known = self.stored
        found = search_numbers(core, self.token, "word")
        assert found[:known] == list(range(1, known + 1))
        self.searches += 1

    def _store(self) -> None:
        store_messages(self.core, self.token, *["a word"] * 20)
        self.stored += 20

    def _publish(self) -> None:
        """What a worker does."""
        assert self.core.index is not None
        with suppress(Unavailable):
            publisher(self.core).publish()
            Refresher(self.core.database, self.core.index).refresh(0)
        self._ending.wait(0.1)


@pytest.mark.scale("Elasticsearch: one of three nodes is killed")
def test_losing_a_node_loses_no_search_and_no_document(
    cluster: ElasticsearchCluster, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index has the shards and replicas of the settings, and a reindex those of newer settings."""
    # On a busy machine a search may take long that is not lost.
    monkeypatch.setattr(elasticsearch_index, "SEARCH_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    given = engines.settings(
        elasticsearch_url=cluster.url, elasticsearch_shards=2, elasticsearch_replicas=1
    )
    with open_backend(given) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token))
        store_messages(core, token, "a word")
        assert publisher(core).publish() == 1
        assert shards_and_replicas(cluster, core) == (2, 1)
        cluster.wait_green(live_index_name(core))
        load = Load(core, token)
        load.stored = 1
        with ExitStack() as stack:
            load.run(stack)
            load.continue_for(SEARCHES)
            cluster.nodes[0].kill()
            load.continue_for(SEARCHES)
        assert load.failures == []
        wait_until(lambda: publishes_all(core))
        assert list(core.reconciler.begin().findings()) == []
    newer = given.model_copy(update={"elasticsearch_shards": 3, "elasticsearch_replicas": 0})
    with open_backend(newer) as core:
        assert core.reindexer is not None
        assert core.reindexer.build() is not None
        assert shards_and_replicas(cluster, core) == (3, 0)
        assert len(search_numbers(core, token, "word")) == load.stored


def publishes_all(core: Backend) -> bool:
    with suppress(Unavailable):
        publisher(core).publish()
    return unpublished_messages(core) == 0


def shards_and_replicas(cluster: ElasticsearchCluster, core: Backend) -> tuple[int, int]:
    """Of the live index, as Elasticsearch has them."""
    name = live_index_name(core)
    index = cluster.get(f"/{name}/_settings")[name]["settings"]["index"]
    return int(index["number_of_shards"]), int(index["number_of_replicas"])
