"""The client of the HTTP benchmarks, and the profile of a server under its load."""

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest
import uvloop

from backend.domain.errors import Failed
from backend.settings import Settings
from instachat_cli.bench.harness.profile import profile_server
from instachat_cli.bench.harness.servers import server, wrk
from loadtest.run.processes import free_port
from tests.conftest import skip_absent

WRK_DEFAULT_TIMEOUT_SECONDS = 2


@contextmanager
def answering(status: int, after: float = 0) -> Iterator[int]:
    """A server that gives each request this status after so many seconds; yields its port."""
    stopping = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            stopping.wait(after)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield server.server_address[1]
        finally:
            stopping.set()
            server.shutdown()


@pytest.fixture(autouse=True)
def wrk_is_installed() -> None:
    if shutil.which("wrk") is None:
        skip_absent("wrk")


def test_a_slow_answer_is_a_latency_and_no_error() -> None:
    """wrk by itself would count it as an error, and a busy machine would fail the benchmark."""
    seconds = WRK_DEFAULT_TIMEOUT_SECONDS + 0.2
    with answering(200, seconds) as port:
        found = wrk(port, ["/"], WRK_DEFAULT_TIMEOUT_SECONDS + 1, "GET", connections=1)
    assert found.p99 >= seconds * 1000


def test_an_answer_that_is_an_error_fails_the_benchmark() -> None:
    """The message says what kind of error it was."""
    with answering(503) as port, pytest.raises(Failed, match="answered with an error, 0 were not"):
        wrk(port, ["/"], 1, "GET", connections=1)


def test_a_server_has_no_setting_but_those_it_is_given(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make bench` sets Elasticsearch's address, which searches without an index must not ask."""
    monkeypatch.setenv("INSTACHAT_ELASTICSEARCH_URL", "http://127.0.0.1:1")
    port = free_port()
    with server(settings, port), urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
        assert json.load(answer)["status"] == "ready"  # and not degraded


def test_the_profiled_server_ends_in_order_if_its_load_fails(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is the load's; the server reports nothing of its own."""

    def fail(_port: int) -> None:
        raise Failed("the load")

    with pytest.raises(Failed, match="the load"):
        uvloop.run(profile_server(settings, fail))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
