"""Every node of a cluster is asked: by doctor, by the status, the page, `/readyz` and the metrics.

Each fault is on one node of six.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.api.health import metrics
from backend.api.health.poller import HealthPoller
from backend.bootstrap import Backend, open_backend
from backend.domain.errors import LogFull
from backend.domain.model import shard_of
from backend.ingest.requests import AcceptRequest
from backend.monitoring.checks import CheckResult, Severity
from backend.monitoring.doctor import CheckContext, run_checks
from backend.monitoring.durability import read_wrong_settings
from backend.monitoring.status import read_status
from backend.monitoring.summary import HealthState, group_figures
from backend.storage.redis.keys import shard_slot
from tests.conftest import Engines
from tests.support.http_server import running_server
from tests.support.redis_cluster import ClusterNode, RedisCluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("redis checks")  # they share a cluster


@pytest.fixture
def core(engines: Engines, redis_cluster: RedisCluster) -> Iterator[Backend]:
    """A backend on the cluster, whose settings are those that `strict` needs."""
    with open_backend(engines.on_cluster(redis_cluster)) as core:
        yield core


@contextmanager
def configured(node: ClusterNode, **settings: str) -> Iterator[None]:
    """Settings of one node, for a while."""
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    before = {name: node.ask("CONFIG", "GET", name)[name] for name in names}
    for name, value in names.items():
        node.ask("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            node.ask("CONFIG", "SET", name, value)


def run_doctor(core: Backend) -> dict[str, list[CheckResult]]:
    """The results of doctor, by check."""
    context = CheckContext(
        core.settings,
        core.database,
        core.log,
        core.workers,
        core.index,
        core.jobs.length,
        core.counter_sync.lag,
        core.epochs.recognition.find_wrong,
    )
    results: dict[str, list[CheckResult]] = {}
    for found in run_checks(context):
        results.setdefault(found.check, []).append(found)
    return results


def each(core: Backend, name: str) -> list[tuple[str, str]]:
    """Severity and message of the results of one check."""
    return [(str(found.severity), found.message) for found in run_doctor(core).get(name, [])]


def shards_of(core: Backend, node: ClusterNode) -> list[int]:
    """The shards that a node serves."""
    (member,) = (member for member in node.members() if "myself" in member.flags)
    shards = core.database.installation.shards
    return [n for n in shards if any(shard_slot(n) in part for part in member.slots)]


def test_a_healthy_cluster_is_reported_as_one(core: Backend, redis_cluster: RedisCluster) -> None:
    """With how many nodes were asked."""
    results = run_doctor(core)
    (found,) = results["Redis"]
    assert found.severity is Severity.OK
    assert found.message.endswith("answers, 6 of 6 nodes")
    (found,) = results["Redis's shards"]
    assert found.message == "all 64 answer, and every slot has a node"
    assert "Redis's nodes" not in results
    for name in ("Redis's memory", "clocks", "Redis's durability", "Redis's scripts"):
        assert [found.severity for found in results[name]] == [Severity.OK], name
    (found,) = results["Redis's replicas"]
    assert found.severity is Severity.WARNING
    assert "min-replicas-to-write is 0" in found.message
    guarded = redis_cluster.masters[0]
    with configured(guarded, min_replicas_to_write="1"):
        ((_, message),) = each(core, "Redis's replicas")
        assert f"127.0.0.1:{guarded.port}" not in message


@pytest.mark.parametrize("role", ["master", "replica"])
def test_a_setting_that_voids_the_durability_is_found_on_any_node(
    role: str, core: Backend, redis_cluster: RedisCluster
) -> None:
    """A replica may become a primary. Every run finds it."""
    node = redis_cluster.masters[1]
    if role == "replica":
        (node,) = redis_cluster.replicas_of(node)
    with configured(node, appendfsync="everysec"):
        for _ in range(3):
            ((severity, message),) = each(core, "Redis's durability")
            assert severity == "error"
            assert f"appendfsync is everysec, not always on 127.0.0.1:{node.port}" in message
        (wrong,) = read_wrong_settings(core.settings, core.log)
        assert wrong.node == f"127.0.0.1:{node.port}"
    ((severity, message),) = each(core, "Redis's durability")
    assert severity == "ok"
    assert "all 6 nodes" in message


def test_a_node_that_is_short_of_memory_is_named_and_its_shards_refuse(
    core: Backend, redis_cluster: RedisCluster
) -> None:
    """The other shards accept."""
    node = redis_cluster.masters[2]
    full = shards_of(core, node)
    tokens: dict[bool, str] = {}
    while len(tokens) < 2:
        token = core.catalog.applications.create("x").token
        tokens[shard_of(token, core.database.installation.shards) in full] = token
    used = int(node.ask("INFO", "memory")["used_memory"])
    with configured(node, maxmemory=str(int(used / 0.95))):
        ((severity, message),) = each(core, "Redis's memory")
        assert severity == "error"
        assert f"127.0.0.1:{node.port}: " in message
        core.log._readings.clear()  # of the last second
        with pytest.raises(LogFull):
            core.acceptor.accept(AcceptRequest.chats(tokens[True]))
        core.acceptor.accept(AcceptRequest.chats(tokens[False]))
        status = read_status(core.database, core.log, core.workers, core.jobs.length)
        assert status.redis_nodes is not None
        assert status.redis_nodes.memory_share is not None
        assert status.redis_nodes.memory_share > 0.85


@pytest.mark.faults
@pytest.mark.scale("Redis Cluster: a master and its replica are killed")
def test_shards_without_a_node_are_named_with_their_share_of_applications(
    core: Backend, redis_cluster: RedisCluster
) -> None:
    """Not as "Redis": the other shards work."""
    node = redis_cluster.masters[0]
    away = shards_of(core, node)
    (replica,) = redis_cluster.replicas_of(node)
    replica.kill()  # so that nobody takes over
    node.kill()
    names = ", ".join(map(str, away[:8]))
    share = f"{len(away) / 64:.0%}"
    said = f"{len(away)} of 64 shards ({names}, …; about {share} of the applications)"

    results = run_doctor(core)
    (found,) = (f for f in results["Redis's shards"] if f.severity is Severity.ERROR)
    assert found.unreachable
    assert said in found.message
    assert f"127.0.0.1:{node.port}" in found.message
    assert results["Redis"][0].message.endswith("answers, 4 of 6 nodes")
    ((severity, message),) = ((f.severity, f.message) for f in results["Redis's nodes"])
    assert (severity, f"127.0.0.1:{replica.port}" in message) == (Severity.WARNING, True)
    assert [f.severity for f in results["installation"]] == [Severity.OK]

    status = read_status(core.database, core.log, core.workers, core.jobs.length)
    (redis_status,) = (e for e in status.engines if e.engine in ("Valkey", "Redis"))
    assert (redis_status.problem, list(redis_status.shards_away)) == (None, away)
    assert status.redis_nodes is not None
    assert status.redis_nodes.away == 2

    snapshot = asyncio.run(HealthPoller(core).poll())
    figures = {figure.name: figure for group in group_figures(snapshot) for figure in group.figures}
    text = metrics.render(snapshot, "")[0].decode()
    figure = figures[redis_status.engine]
    assert figure.value == f"no answer from {len(away)} shards of 64"
    assert (figure.state, said in figure.advice) == (HealthState.CRITICAL, True)
    assert figures["Redis's nodes"].state is HealthState.WARNING
    assert f"instachat_shards_away {len(away)}.0" in text
    assert 'instachat_engine_up{engine="Redis"} 1.0' in text
    assert "instachat_redis_nodes_away 2.0" in text
    assert "127.0.0.1" not in text + figure.advice


@pytest.mark.faults
@pytest.mark.scale("Redis Cluster: a master hangs")
def test_a_server_stays_ready_while_a_node_hangs(
    engines: Engines, redis_cluster: RedisCluster, tmp_path: Path
) -> None:
    """It serves the other shards, so a load balancer has to keep it. It names the shards that are away."""
    settings = engines.on_cluster(redis_cluster)
    node = redis_cluster.masters[0]
    (replica,) = redis_cluster.replicas_of(node)
    with open_backend(settings) as core, running_server(settings, tmp_path) as server:
        away = shards_of(core, node)
        replica.kill()
        node.suspend()

        def is_degraded() -> bool:
            answer = server("GET", "/readyz")
            body = {"status": "degraded", "away": [f"shard {shard}" for shard in away]}
            return (answer.status, answer.json) == (200, body)

        wait_until(is_degraded)
        node.resume()
