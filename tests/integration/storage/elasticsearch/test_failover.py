"""Several hosts in the URL: what one of them does not answer, another one does.

The hosts lead to one node, through proxies that a test breaks, or to nothing. `test_cluster` has the same
with three nodes.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import EngineDown, Unavailable
from backend.search.refresh import Refresher
from backend.search.searcher import IndexSearcher
from backend.storage.elasticsearch import index as index_module
from backend.storage.elasticsearch.index import ElasticsearchIndex
from backend.storage.elasticsearch.mapping import new_index_name
from backend.storage.search_index import Document
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.gate import SearchGate
from tests.support.elasticsearch.requests import live_index_name, query_rows, store_messages
from tests.support.engines import free_port
from tests.support.waiting import PATIENCE_SECONDS, promised


@pytest.fixture
def index(elasticsearch: Elasticsearch) -> Iterator[tuple[ElasticsearchIndex, str]]:
    """An index with a document, searchable in it, and the client that made it."""
    client, name = ElasticsearchIndex(elasticsearch.url), new_index_name("failover")
    client.create(name)
    client.write(name, [Document(1, 1, 1, "word")])
    client.set_read_alias(name)
    client.refresh(name)
    yield client, name
    client.drop(name)
    client.close()


@contextmanager
def hanging_host() -> Iterator[tuple[str, Callable[[], int]]]:
    """A host that takes connections and never answers; with how many it got since the last call."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        kept: list[socket.socket] = []

        def count() -> int:
            before = len(kept)
            try:
                while True:
                    kept.append(listener.accept()[0])
            except BlockingIOError:
                return len(kept) - before

        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", count
        finally:
            for connection in kept:
                connection.close()


class _Unable(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def unable_host() -> Iterator[str]:
    """A host that answers 503, as a proxy does that has no node."""
    server = HTTPServer(("127.0.0.1", 0), _Unable)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class CutAnswers(SearchGate):
    """A host whose connection breaks after a request has reached Elasticsearch and before its answer."""

    cuts = 0

    def _pass(self, data: bytes, *, from_client: bool) -> None:  # noqa: ARG002  # as in Proxy
        if not from_client:
            self.cuts += 1
            raise OSError


def joined(*hosts: str) -> str:
    """The URL of several hosts."""
    return "http://" + ",".join(host.removeprefix("http://") for host in hosts)


def search(client: ElasticsearchIndex, name: str) -> list[int]:
    return client.candidates(name, 1, "word", 0, 10)


@pytest.fixture
def patient_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search waits for a node of a slow machine: only the hosts of the test cost one."""
    monkeypatch.setattr(index_module, "SEARCH_TIMEOUT_SECONDS", PATIENCE_SECONDS)


@pytest.mark.usefixtures("patient_searches")
def test_hosts_that_refuse_connections_cost_no_search(
    index: tuple[ElasticsearchIndex, str], elasticsearch: Elasticsearch
) -> None:
    """Two of three are dead, whichever is asked first."""
    name = index[1]
    for _ in range(5):  # the pool begins with a random one
        dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        client = ElasticsearchIndex(joined(*dead, elasticsearch.url))
        assert [search(client, name) for _ in range(5)] == [[1]] * 5
        client.close()


@pytest.mark.scale("Elasticsearch: a node hangs")
def test_a_host_that_hangs_costs_no_search_and_delays_one_at_a_time(
    index: tuple[ElasticsearchIndex, str], elasticsearch: Elasticsearch
) -> None:
    """The search that met it is answered by the other host within its two seconds."""
    with hanging_host() as (host, connections):
        client = ElasticsearchIndex(joined(host, elasticsearch.url))
        with promised(2):
            assert [search(client, index[1]) for _ in range(2)] == [[1], [1]]
        assert connections() == 1
        assert [search(client, index[1]) for _ in range(20)] == [[1]] * 20
        assert connections() < 10  # one at the end of each pause, not every second search
        client.close()


@pytest.mark.usefixtures("patient_searches")
def test_a_host_that_answers_503_costs_no_search(
    index: tuple[ElasticsearchIndex, str], elasticsearch: Elasticsearch
) -> None:
    with unable_host() as host:
        client = ElasticsearchIndex(joined(host, elasticsearch.url))
        assert [search(client, index[1]) for _ in range(5)] == [[1]] * 5
        client.close()
        alone = ElasticsearchIndex(joined(host))
        with pytest.raises(Unavailable, match="503"):
            search(alone, index[1])
        alone.close()


def test_a_write_whose_answer_is_lost_is_repeated_and_stores_each_version_once(
    index: tuple[ElasticsearchIndex, str], elasticsearch: Elasticsearch
) -> None:
    """Elasticsearch has done the first one: the second one finds its versions, and changes nothing."""
    direct, name = index
    gate = CutAnswers(elasticsearch.url)
    written = 1
    try:
        while gate.cuts < 2:
            client = ElasticsearchIndex(joined(gate.url, elasticsearch.url))
            written += 1
            documents = [Document(1, written, 3, "word"), Document(1, 1, 1, "old")]
            assert client.write(name, documents) == []
            assert client.write(name, [Document(1, written, 2, "older")]) == []
            client.close()
    finally:
        gate.close()
    states = direct.read_states(name, [(1, number) for number in range(1, written + 1)])
    assert [state.version for state in states.values()] == [1] + [3] * (written - 1)
    assert direct.candidates(name, 1, "word", 0, 1_000) == list(range(1, written + 1))


def test_a_comparison_whose_state_is_lost_with_a_node_can_be_run_again(
    index: tuple[ElasticsearchIndex, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so. Ending it is no error, either."""
    client, name = index
    library, opened = client.client, []

    def open_point_in_time(**options: Any) -> Any:
        opened.append(original(**options))
        return opened[-1]

    original = library.open_point_in_time
    monkeypatch.setattr(library, "open_point_in_time", open_point_in_time)
    with client.point_in_time(name) as read:
        assert [state[:2] for state in read((0, 0), None, 10)[0]] == [(1, 1)]
        library.close_point_in_time(id=opened[0]["id"])
        with pytest.raises(Unavailable, match="has lost the state"):
            read((0, 0), None, 10)


def test_no_host_answers() -> None:
    """The error names all hosts and no password."""
    hosts = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    client = ElasticsearchIndex(f"http://u:secret@{hosts[0]},u:secret@{hosts[1]}")
    with pytest.raises(EngineDown) as caught:
        client.version()
    assert hosts[1] in caught.value.message
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"
    client = ElasticsearchIndex(f"http://u:secret@{hosts[0]},{hosts[1]}")
    with pytest.raises(EngineDown) as caught:
        client.version()
    assert all(host in caught.value.message for host in hosts)
    assert "secret" not in f"{caught.value.message} {caught.value.hint}"


@pytest.fixture
def core(engines: Engines, elasticsearch: Elasticsearch) -> Iterator[Backend]:
    """A backend whose index is reached by one host of three."""
    dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    url = joined(dead[0], elasticsearch.url, dead[1])
    with open_backend(engines.settings(elasticsearch_url=url)) as core:
        yield core


def test_every_request_of_the_program_goes_to_a_host_that_answers(
    core: Backend, token: str
) -> None:
    """Creating an index, publishing, refreshing, searching, reindexing and reconciling."""
    assert core.index is not None
    assert core.publisher is not None
    assert core.reindexer is not None
    store_messages(core, token, "a word", "another")
    assert core.publisher.publish() == 2
    assert Refresher(core.database, core.index).refresh(0) == 1
    searcher = IndexSearcher(core.database, core.index)
    ((chat_id,),) = query_rows(core, "SELECT id FROM chat")
    name = live_index_name(core)
    assert searcher.first_candidates(name, chat_id, "word", 0, 10).numbers == [1]
    result = core.reindexer.build()
    assert result is not None
    assert result.messages == 2
    assert searcher.first_candidates(result.name, chat_id, "word", 0, 10).numbers == [1]
    assert list(core.reconciler.begin().findings()) == []
    core.index.drop(name)
    core.index.drop(result.name)
