"""Which Elasticsearch a fault may reach: one of this machine, itself, and without any index."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from loadtest.errors import Unusable
from loadtest.run.local_elasticsearch import LocalElasticsearch
from tests.load.conftest import run_bench
from tests.support.engines import free_port

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
