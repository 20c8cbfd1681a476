"""`/metrics` counts for all of the server's processes, and names nobody."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPException

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from backend.settings import Settings
from tests.conftest import Engines
from tests.support.engines import RedisServer, valkey_binary
from tests.support.http_server import ROOT, ApplicationClient, HttpServer, server_processes
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("metrics")

MESSAGES = "/api/v1/applications/{token}/chats/{chat}/messages"
REQUESTS = "instachat_http_request_seconds_count"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """Two processes on one port, on a Redis of their own, and no worker."""
    with ExitStack() as stack:
        redis = RedisServer(valkey_binary())
        stack.callback(redis.remove)
        redis.start()
        settings = Settings(database_url=engines.fresh_database(), redis_url=redis.url)
        server = HttpServer(settings, tmp_path_factory.mktemp("metrics"), "--workers", "2")
        stack.callback(server.remove)
        yield server.wait_ready()


def samples(server: HttpServer) -> Samples:
    """What there is now, by name and labels."""
    text = server("GET", "/metrics").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """One sample; 0 where there is none yet."""
    return found.get((name, frozenset(labels.items())), 0)


def new_chat(server: HttpServer) -> str:
    """The path of a new chat's messages."""
    application = ApplicationClient(server)
    assert server("POST", f"{application.path}/chats").status == 202
    return f"{application.path}/chats/1/messages"


def post(server: HttpServer, path: str) -> None:
    """Create a message on the fast path."""
    answer = server("POST", path, {"message": {"text": "counted"}})
    assert answer.status == 202, answer


def test_requests_are_counted_over_all_processes(server: HttpServer) -> None:
    """By method, template and status, on the fast path and off it, whichever process answers."""
    path = new_chat(server)
    before = samples(server)
    for _ in range(40):
        post(server, path)
    for _ in range(3):  # anything unusual goes the ordinary way
        assert server("POST", f"{path}?unusual=1", {"message": {"text": "counted"}}).status == 202
    for _ in range(2):
        assert server("GET", "/nowhere/at/all").status == 404

    def counted() -> bool:
        now = samples(server)

        def more(**labels: str) -> float:
            return value(now, REQUESTS, **labels) - value(before, REQUESTS, **labels)

        return (
            more(method="POST", route=MESSAGES, status="202") == 43
            and more(method="GET", route="-", status="404") == 2
        )

    wait_until(counted)  # an answer is counted once it is sent, so a moment after it is read
    now = samples(server)
    accepted = "instachat_accept_batch_requests_sum"
    assert value(now, accepted) - value(before, accepted) == 43
    calls = "instachat_accept_call_seconds_count"
    assert 1 <= value(now, calls) - value(before, calls) <= 43


def test_each_time_is_in_one_bucket(server: HttpServer) -> None:
    """A histogram's last bucket holds all that was counted, and the buckets only rise."""
    new_chat(server)
    for name in ("http_request_seconds", "accept_batch_requests", "accept_call_seconds"):
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


def test_what_waits_and_the_pools_are_there(server: HttpServer) -> None:
    """What a worker would have stored waits, and is told with the pools of both processes."""
    post(server, new_chat(server))
    wait_until(lambda: value(samples(server), "instachat_log_entries") > 0)
    now = samples(server)
    assert value(now, "instachat_workers") == 0
    assert value(now, "instachat_log_oldest_seconds") > 0
    assert value(now, "instachat_engine_up", engine="PostgreSQL") == 1
    assert value(now, "instachat_engine_up", engine="Redis") == 1
    wait_until(
        lambda: value(samples(server), "instachat_pool_limit", pool="database") == 60
    )  # 30 each
    assert 0 <= value(now, "instachat_pool_in_use", pool="database") <= 60


def test_a_process_that_is_killed_keeps_its_counts(server: HttpServer) -> None:
    """A count never falls, and the pools are those of the living."""
    for _ in range(20):
        assert server("DELETE", "/nowhere/at/all").status == 404
    wait_until(
        lambda: _deleted(server)[0] == 20
    )  # a process writes down what it has counted once a second
    victim, *_ = server_processes(server)
    victim.kill()
    wait_until(lambda: _deleted(server) == (20, 60))


def _deleted(server: HttpServer) -> tuple[float, float]:
    labels = {"method": "DELETE", "route": "-", "status": "404"}
    try:
        now = samples(server)
    except (OSError, HTTPException):  # it came to the one that was killed
        return 0, 0
    return value(now, REQUESTS, **labels), value(now, "instachat_pool_limit", pool="database")


def test_openmetrics_is_spoken_too(server: HttpServer) -> None:
    """Whoever asks for OpenMetrics gets it, to the last line."""
    text = server(
        "GET", "/metrics", accept="application/openmetrics-text; version=1.0.0"
    ).body.decode()
    names = {family.name for family in openmetrics.text_string_to_metric_families(text)}
    assert {"instachat_http_request_seconds", "instachat_log_entries"} <= names


def test_labels_name_nobody(server: HttpServer) -> None:
    """No token and no number gets into a label, whatever is asked for."""
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


def test_the_page_on_monitoring_names_what_is_there(server: HttpServer) -> None:
    """Each metric is documented, and what the documentation and its alerts name exists."""
    post(server, new_chat(server))
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    families = {
        family.name: {sample.name for sample in family.samples}
        for family in text_string_to_metric_families(server("GET", "/metrics").body.decode())
    }
    there = set().union(families, *families.values())
    named = set(re.findall(r"instachat_[a-z_]+", page))
    assert named <= there
    for name, its_samples in families.items():
        assert named & {name, *its_samples}, f"{name} is not documented"
    alerts = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    rules = [rule for part in alerts for group in part["groups"] for rule in group["rules"]]
    assert len(rules) >= 8
    assert all(rule["alert"].startswith("InstaChat") and rule["expr"] for rule in rules)
