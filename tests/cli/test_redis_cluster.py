"""The program on a Redis Cluster of which a host of the URL is dead."""

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_up import Up
from tests.conftest import Engines
from tests.support.engines import free_port
from tests.support.fork_server import ForkServer
from tests.support.redis_cluster import RedisCluster


@pytest.fixture
def cli(engines: Engines, redis_cluster: RedisCluster, fork_server: ForkServer) -> Cli:
    """The program on a new installation on the cluster; the first host of its URL is dead."""
    settings = engines.on_cluster(redis_cluster)
    hosts = redis_cluster.url.replace("//", f"//127.0.0.1:{free_port()},", 1)
    return Cli(
        fork_server,
        database_url=settings.database_url,
        redis_url=hosts,
        huey_url=settings.huey_url,
    )


@pytest.mark.faults
def test_everything_starts_while_the_first_host_is_dead(cli: Cli, tmp_path: Path) -> None:
    """A command, and a server with a worker: one host of the URL has to answer."""
    token = cli("apps", "create", "x").json["token"]
    up = Up(cli, tmp_path)
    try:
        up.ready()
        stored = cli("chats", "create", token, "--wait", "stored")
        assert stored.code == 0, stored
    finally:
        up.stop()


@pytest.mark.faults
def test_a_cluster_without_a_host_that_answers_is_unavailable(cli: Cli) -> None:
    """The error says which setting to check, without the password."""
    url = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))
    env = {"INSTACHAT_REDIS_URL": f"redis+cluster://user:secret@{url}"}
    for words in (["apps", "create", "x"], ["status"], ["doctor"]):
        failed = cli(*words, "-o", "json", env=env)
        assert failed.code == 5, failed
        assert "secret" not in failed.out + failed.err
    assert "INSTACHAT_REDIS_URL" in cli("apps", "create", "x", env=env).err


@pytest.mark.faults
def test_commands_work_for_the_shards_that_answer(cli: Cli, redis_cluster: RedisCluster) -> None:
    """They exit with 5, and name the others, while a node and its replica are dead."""
    token = cli("apps", "create", "x").json["token"]
    dead = next(node for node in redis_cluster.masters if not node.ask("KEYS", f"*{token}*"))
    for node in (*redis_cluster.replicas_of(dead), dead):
        node.kill()
    status, checked, compared = cli.run_all(
        [
            ("status", "-o", "json"),
            ("sync-counters", "--check", "-o", "json"),
            ("reconcile", "-o", "json"),
        ]
    )
    away = status.json["engines"][1]["shards_away"]
    assert away
    assert status.json["not_stored"] is not None
    assert checked.json["shards_away"] == away
    assert compared.json == []
    for failed in (status, checked, compared):
        assert (failed.code, failed.error["error"]) == (5, "unavailable")
        assert f"{len(away)} of 64 shards" in failed.error["message"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://user:secret@h1:1,h2:2/0", "several servers need redis+cluster://"),
        ("redis+cluster://user:secret@h1:1,,h2:2", "a host is missing between two commas"),
        ("redis+cluster://user:secret@h1:1,h2:x", "Port could not be cast"),
        ("redis+cluster://user:secret@h1:1/3", "a Redis Cluster has no databases"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(cli: Cli, url: str, reason: str) -> None:
    """At the start, without the password."""
    failed = cli("apps", "create", "x", env={"INSTACHAT_REDIS_URL": url})
    assert failed.code == 2, failed
    assert reason in failed.err
    assert "secret" not in failed.err
