"""Which Elasticsearch a fault may reach: one of this machine, itself, and without any index."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.request import Request, urlopen

import pytest

from loadtest.errors import Unusable
from loadtest.report.result import loads
from loadtest.run.local_elasticsearch import LocalElasticsearch
from tests.conftest import skip_absent
from tests.load.conftest import finish, run_bench, start_bench
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.node import ElasticsearchServer
from tests.support.elasticsearch.provision import NotAvailable, installation
from tests.support.engines import free_port
from tests.support.waiting import PATIENCE_SECONDS

SERVER = """
import http.server, json, sys
indices = json.loads(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer([{"index": name} for name in indices])
    def do_DELETE(self):
        indices.remove(self.path.strip("/"))
        self.answer({"acknowledged": True})
    def answer(self, found):
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Starts a server with these indices, whose command line has a name; returns its address."""
    with ExitStack() as stack:

        def start(name: str, *indices: str) -> str:
            command = [sys.executable, "-c", SERVER, name, json.dumps(indices)]
            process: Any = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(lambda: (process.kill(), process.communicate()))
            return f"http://127.0.0.1:{int(process.stdout.readline())}"

        yield start


NAME = "org.elasticsearch.bootstrap.Elasticsearch"


def test_only_an_empty_elasticsearch_of_this_machine_is_used(start: Callable[..., str]) -> None:
    """Otherwise the fault would reach others. What Elasticsearch itself has does not count."""
    for url, said in (
        (f"http://127.0.0.1:{free_port()}", "no process is seen to listen"),
        ("http://192.0.2.1:9200", "no process is seen to listen"),
        (start("docker-proxy"), "it must be Elasticsearch itself"),
        (start(NAME, ".security", "orders"), "it has the index 'orders'"),
    ):
        with pytest.raises(Unusable, match=said):
            LocalElasticsearch(url)
    url = start(NAME, ".security")
    (process,) = LocalElasticsearch(url).processes
    assert NAME in process.cmdline()


def test_only_the_runs_indices_are_deleted(start: Callable[..., str]) -> None:
    """Those of the installation; one that somebody else has created meanwhile remains."""
    elasticsearch = LocalElasticsearch(start(NAME))
    elasticsearch.url = start(NAME, "instachat-1-1", "instachat-1-2", "orders")
    elasticsearch.remove_indices()
    with pytest.raises(Unusable, match="it has the index 'orders'"):
        LocalElasticsearch(elasticsearch.url)


def test_without_an_elasticsearch_the_fault_is_refused() -> None:
    """A private installation has none of its own; the message says what to set."""
    run = run_bench("run", "--fault", "hang:elasticsearch@3s+2s")
    assert run.code == 2
    assert "a private installation has none" in run.err
    assert "INSTACHAT_ELASTICSEARCH_URL" in run.err


@pytest.fixture
def empty_elasticsearch(elasticsearch: Elasticsearch) -> Iterator[str]:
    """A node that is a process of this machine, without an index; its address.

    It is the shared one, from which the indices of earlier tests are removed, unless that is elsewhere or in
    a container.
    """
    if isinstance(elasticsearch, ElasticsearchServer):
        for name in indices(elasticsearch.url):
            call(elasticsearch.url, f"/{name}", "DELETE")
        yield elasticsearch.url
        return
    try:
        node = ElasticsearchServer(installation())
    except NotAvailable as reason:
        skip_absent(f"Elasticsearch ({reason})")
        raise
    try:
        node.start()
        yield node.url
    finally:
        node.remove()


def call(url: str, path: str, method: str = "GET") -> bytes:
    """The body of an answer of Elasticsearch."""
    with urlopen(Request(url + path, method=method), timeout=PATIENCE_SECONDS) as answer:
        return bytes(answer.read())


def indices(url: str) -> list[str]:
    """The names of all indices but Elasticsearch's own."""
    listed = json.loads(call(url, "/_cat/indices?format=json&h=index&expand_wildcards=all"))
    return [row["index"] for row in listed if not row["index"].startswith(".")]


def test_an_elasticsearch_that_hangs_under_load_loses_nothing(empty_elasticsearch: str) -> None:
    """The private installation searches by it; what was answered meanwhile is found once it goes on.

    While it has an index the run is refused, and none is left afterwards.
    """
    words = ["run", "mixed", "--rate", 30, "--chats", 4, "-o", "json"]
    words += ["--duration", "7s", "--fault", "hang:elasticsearch@2s+3s"]
    url = {"INSTACHAT_ELASTICSEARCH_URL": empty_elasticsearch}
    call(empty_elasticsearch, "/orders", "PUT")
    refused = finish(start_bench(*words, **url))
    assert (refused.code, refused.out) == (1, "")
    assert "it has the index 'orders'" in refused.err
    assert indices(empty_elasticsearch) == ["orders"]
    call(empty_elasticsearch, "/orders", "DELETE")

    run = finish(start_bench(*words, **url))
    assert run.code == 0, run.err
    found = loads(run.out)
    assert found.facts["search"].startswith("Elasticsearch")
    (hung,) = found.faults
    assert hung.fault == "hang:elasticsearch@2s+3s"
    assert hung.to_s - hung.from_s > 2.9
    assert max(moment.searchable_ms or 0 for moment in found.timeline) > 1_000
    assert found.audit.answered == found.audit.stored == found.audit.searchable
    assert found.audit.answered > 0
    assert indices(empty_elasticsearch) == []
