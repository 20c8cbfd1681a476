"""`/metrics` covers all processes of the server, and contains no tokens or numbers."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.http_server import ROOT, ApplicationClient, HttpServer, server_processes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("metrics")

MESSAGES = "/api/v1/applications/{token}/chats/{chat}/messages"
NAME = r"instachat_[a-z_]+"
REQUESTS = "instachat_http_request_seconds_count"
HISTOGRAMS = ("http_request_seconds", "accept_batch_requests", "accept_call_seconds")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def two_processes(engines: Engines, folder: Path) -> Iterator[HttpServer]:
    """Two server processes on one port, with their own Redis and without a worker."""
    with ExitStack() as stack:
        redis = RedisServer(valkey_binary())
        stack.callback(redis.remove)
        redis.start()
        settings = Settings(database_url=engines.fresh_database(), redis_url=redis.url)
        server = HttpServer(settings, folder, "--workers", "2")
        stack.callback(server.remove)
        yield server.wait_ready()


@pytest.fixture(scope="module")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server that the tests of this module share; it has counted each kind of request."""
    with two_processes(engines, tmp_path_factory.mktemp("metrics")) as server:
        post(server, new_chat(server))

        def has_counted() -> bool:
            counted = {sample for sample, _ in samples(server)}
            return all(f"instachat_{name}_bucket" in counted for name in HISTOGRAMS)

        wait_until(has_counted)  # a process writes its counts once a second
        yield server


@pytest.fixture
def own_server(engines: Engines, tmp_path: Path) -> Iterator[HttpServer]:
    """A server for exact counts: a process writes those of earlier requests only within a second."""
    with two_processes(engines, tmp_path) as server:
        yield server


def samples(server: HttpServer) -> Samples:
    """All current samples, by name and labels."""
    text = server("GET", "/metrics").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """The value of one sample; 0 if it does not exist yet."""
    return found.get((name, frozenset(labels.items())), 0)


def new_chat(server: HttpServer) -> str:
    """Create a chat; returns the path of its messages."""
    application = ApplicationClient(server)
    assert server("POST", f"{application.path}/chats").status == 202
    return f"{application.path}/chats/1/messages"


def post(server: HttpServer, path: str) -> None:
    """Create a message on the fast path."""
    answer = server("POST", path, {"message": {"text": "counted"}})
    assert answer.status == 202, answer


def test_requests_are_counted_over_all_processes(own_server: HttpServer) -> None:
    """By method, template and status, on the fast path and on the routes, whichever process answers."""
    path = new_chat(own_server)
    before = samples(own_server)
    for _ in range(40):
        post(own_server, path)
    for _ in range(3):  # not on the fast path
        assert own_server("POST", f"{path}?", {"message": {"text": "counted"}}).status == 202
    for _ in range(2):
        assert own_server("GET", "/nowhere/at/all").status == 404

    def counted() -> bool:
        now = samples(own_server)

        def more(**labels: str) -> float:
            return value(now, REQUESTS, **labels) - value(before, REQUESTS, **labels)

        return (
            more(method="POST", route=MESSAGES, status="202") == 43
            and more(method="GET", route="-", status="404") == 2
            and value(now, "instachat_accept_batch_requests_sum") == 44  # with the chat's creation
        )

    wait_until(counted)  # within a second of its response, if another process has counted it
    assert 1 <= value(samples(own_server), "instachat_accept_call_seconds_count") <= 44


def test_histogram_buckets_are_cumulative(server: HttpServer) -> None:
    """The buckets never fall, and the last one equals the count."""
    for name in HISTOGRAMS:
        now = samples(server)
        series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for (sample, labels), found in now.items():
            if sample == f"instachat_{name}_bucket":
                rest = frozenset(each for each in labels if each[0] != "le")
                series.setdefault(rest, []).append((float(dict(labels)["le"]), found))
        assert series
        for labels, buckets in series.items():
            counts = [count for _, count in sorted(buckets)]
            assert counts == sorted(counts)
            assert counts[-1] == now[f"instachat_{name}_count", labels]


def test_the_backlog_and_the_pools_are_exposed(server: HttpServer) -> None:
    """Without a worker, the log's entries wait; the pools are those of both processes."""
    post(server, new_chat(server))
    wait_until(lambda: value(samples(server), "instachat_log_entries") > 0)
    # The first look may come within the millisecond in which the entry was made.
    wait_until(lambda: value(samples(server), "instachat_log_oldest_seconds") > 0)
    now = samples(server)
    assert value(now, "instachat_workers") == 0
    assert value(now, "instachat_engine_up", engine="PostgreSQL") == 1
    assert value(now, "instachat_engine_up", engine="Redis") == 1
    wait_until(
        lambda: value(samples(server), "instachat_pool_limit", pool="database") == 60
    )  # 30 each
    assert 0 <= value(now, "instachat_pool_in_use", pool="database") <= 60


def test_the_counts_of_a_killed_process_remain(server: HttpServer) -> None:
    """A counter never falls, and the pools are those of the running processes."""
    for _ in range(20):
        assert server("DELETE", "/nowhere/at/all").status == 404
    wait_until(lambda: _deleted(server)[0] == 20)  # a process writes its counts once a second
    victim, *_ = server_processes(server)
    victim.kill()
    wait_until(lambda: _deleted(server) == (20, 60))


def _deleted(server: HttpServer) -> tuple[float, float]:
    labels = {"method": "DELETE", "route": "-", "status": "404"}
    try:
        now = samples(server)
    except (OSError, HTTPException):  # the request reached the killed process
        return 0, 0
    return value(now, REQUESTS, **labels), value(now, "instachat_pool_limit", pool="database")


def test_openmetrics_is_available(server: HttpServer) -> None:
    """A request that accepts OpenMetrics gets a complete document in it."""
    text = server(
        "GET", "/metrics", accept="application/openmetrics-text; version=1.0.0"
    ).body.decode()
    names = {family.name for family in openmetrics.text_string_to_metric_families(text)}
    assert {"instachat_http_request_seconds", "instachat_log_entries"} <= names


def test_labels_contain_no_token_and_no_number(server: HttpServer) -> None:
    """Whatever path is requested."""
    path = new_chat(server)
    for asked in (path, path + "/1", path + "/999", "/api/v1/applications/no-such-token"):
        server("GET", asked)
    routes = {
        found
        for _, labels in samples(server)
        for name, found in labels
        if name not in ("le", "status")
    }
    assert path.split("/")[4] not in " ".join(routes)
    assert "no-such-token" not in " ".join(routes)
    assert not any(any(part.isdigit() for part in found.split("/")) for found in routes)


def test_the_documentation_lists_every_metric(server: HttpServer) -> None:
    """Each metric is documented, and each name in the documentation, the alerts and the dashboard exists."""
    post(server, new_chat(server))
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    families = {
        family.name: {sample.name for sample in family.samples}
        for family in text_string_to_metric_families(server("GET", "/metrics").body.decode())
    }
    there = set().union(families, *families.values())
    named = set(re.findall(NAME, page))
    deployed = [
        ROOT / "deploy" / name for name in ("prometheus-rules.yml", "grafana-dashboard.json")
    ]
    used = set().union(*(re.findall(NAME, path.read_text(encoding="utf-8")) for path in deployed))
    incidents = set(re.findall(NAME, (ROOT / "docs" / "incidents.md").read_text(encoding="utf-8")))
    assert (named | used | incidents) <= there
    assert len(used) >= 20
    for name, its_samples in families.items():
        assert named & {name, *its_samples}, f"{name} is not documented"
