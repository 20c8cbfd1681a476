"""HTTP acceptance: against a Go gateway of four Redis calls a message, and the bare server's constant answer.

All by the same client (wrk, 64 connections) on the same machine, ours and the gateway's on the same Redis.
wrk and Redis share the processors with the server: a rate says what is left for it.
"""

import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from backend.domain.model import MAX_BATCH
from backend.ingest.requests import AcceptRequest
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row, Verdict
from instachat_cli.bench.harness.profile import profile_server
from instachat_cli.bench.harness.servers import (
    CONNECTIONS,
    LoadResult,
    build_gateway,
    constant_server,
    gateway,
    server,
    wrk,
)
from instachat_cli.console.stderr import stderr

SMALL_APPLICATION_CHATS = 100  # chats
TENANTS = 64
CLIENT = f"wrk, {CONNECTIONS} connections"
CONFIGURATION = f"{CLIENT}, one message a request, one server process"

MeasureLoad = Callable[[], LoadResult]


def measure(env: Environment) -> Iterator[Row]:
    """Rates and latencies of the hot route; what durability, processes, tenants and many chats cost."""
    for row in _measure(env):
        yield _with_profile(env, row)


def _measure(env: Environment) -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seconds = env.scale.seconds
        path = [_messages(env.chat.token, env.chat.number)]
        port = _free_port()
        stack.enter_context(server(env.backend.settings, port))
        ours = _clearing_log(env, lambda: wrk(port, path, seconds))

        constant_port = _free_port()
        with constant_server(constant_port):
            loads = _pairs(env, ours, lambda: wrk(constant_port, path, seconds))
        yield _rates(
            "accept by HTTP",
            CONFIGURATION,
            "the bare server, a constant",
            loads,
            Goal(0.4, aim=0.6),
        )

        program = build_gateway(folder) if env.scale.gateway else None
        if program is None:
            stderr.note("without Go, or in a hurry: the gateway of four Redis calls is left out")
        else:
            gateway_port = _free_port()
            for name in ("app:" + env.chat.token, f"chat:{env.chat.token}:1"):
                env.redis.set(f"gateway:{name}", 1)
            with gateway(program, env.backend.settings.redis_url or "", gateway_port):
                loads = _pairs(env, ours, lambda: wrk(gateway_port, path, seconds))
            baseline = "a Go gateway, four Redis calls"
            yield _rates("accept by HTTP", CONFIGURATION, baseline, loads, Goal(1.2, aim=2.0))
            pairs = [(one.p99, other.p99) for one, other in loads]
            goal = Goal(1.0, at_most=True)
            what = "accept by HTTP, 99th percentile"
            yield Row(what, CONFIGURATION, "instachat serve", baseline, "ms", pairs, goal)

        yield _with_less_durability(env, ours)
        yield _with_many_tenants(env, port, ours)
        yield from _with_many_chats(env, port)
    yield _with_two_processes(env, path)


def _with_less_durability(env: Environment, ours: MeasureLoad) -> Row:
    """What the fsync before each answer costs."""

    def relaxed() -> LoadResult:
        env.redis.config_set("appendfsync", "everysec")
        try:
            return ours()
        finally:
            env.redis.config_set("appendfsync", "always")

    loads = _pairs(env, ours, relaxed)
    return _rates("accept by HTTP, strict", CONFIGURATION, "fast: one fsync a second", loads, None)


def _with_many_tenants(env: Environment, port: int, ours: MeasureLoad) -> Row:
    """Requests of many applications: a batch is then one call for each of their shards."""
    paths = []
    for _ in range(TENANTS):
        token = env.backend.catalog.create_application("benchmark").token
        paths.append(
            _messages(token, env.backend.acceptor.accept(AcceptRequest.chats(token)).first)
        )
    many = _clearing_log(env, lambda: wrk(port, paths, env.scale.seconds))
    return _rates(
        f"accept by HTTP, {TENANTS} applications",
        CONFIGURATION,
        "one application",
        _pairs(env, many, ours),
    )


def _with_many_chats(env: Environment, port: int) -> Iterator[Row]:
    """An application with very many chats, against one with a hundred: reading and writing."""
    large, small = (
        _application(env, count)
        for count in (env.scale.large_application_chats, SMALL_APPLICATION_CHATS)
    )
    what = f"an application of {env.scale.large_application_chats:,} chats"
    seconds = env.scale.seconds
    for name, method, path in (
        ("show a chat of", "GET", "/chats/{}"),
        ("list the last chats of", "GET", "/chats?after={}"),
        ("accept by HTTP in", "POST", "/chats/{}/messages"),
    ):

        def load(token: str, count: int, method: str = method, path: str = path) -> MeasureLoad:
            at = f"/api/v1/applications/{token}" + path.format(count - SMALL_APPLICATION_CHATS // 2)
            return _clearing_log(env, lambda: wrk(port, [at], seconds, method))

        loads = _pairs(
            env,
            load(large, env.scale.large_application_chats),
            load(small, SMALL_APPLICATION_CHATS),
        )
        configuration = CONFIGURATION if method == "POST" else f"{CLIENT}, one server process"
        yield _rates(
            f"{name} {what}", configuration, f"one of {SMALL_APPLICATION_CHATS}", loads, Goal(0.7)
        )


def _with_two_processes(env: Environment, path: Sequence[str]) -> Row:
    """What a second server process brings on this machine."""
    one, two = _free_port(), _free_port()
    settings, seconds = env.backend.settings, env.scale.seconds
    with server(settings, one), server(settings, two, 2):
        loads = _pairs(
            env,
            _clearing_log(env, lambda: wrk(two, path, seconds)),
            _clearing_log(env, lambda: wrk(one, path, seconds)),
        )
    configuration = f"{CLIENT}, one message a request"
    return _rates("accept by HTTP, two server processes", configuration, "one", loads)


def _application(env: Environment, chats: int) -> str:
    """An application of so many stored chats."""
    backend = env.backend
    token = backend.catalog.create_application("benchmark").token
    for start in range(0, chats, MAX_BATCH):
        backend.acceptor.accept(AcceptRequest.chats(token, min(MAX_BATCH, chats - start)))
    backend.drainer.drain(backend.counters.shard(token))
    return token


def _messages(token: str, chat: int) -> str:
    return f"/api/v1/applications/{token}/chats/{chat}/messages"


def _clearing_log(env: Environment, load: MeasureLoad) -> MeasureLoad:
    """A load whose messages are dropped from the log afterwards, as no worker runs here."""

    def measured() -> LoadResult:
        found = load()
        for shard in range(env.backend.database.installation.shards):
            env.redis.xtrim(env.backend.log.key(shard, "log"), maxlen=0, approximate=False)
        return found

    return measured


def _pairs(
    env: Environment, ours: MeasureLoad, baseline: MeasureLoad
) -> list[tuple[LoadResult, LoadResult]]:
    """Both in turn, after a turn that does not count; in a hurry without that one."""
    if env.scale.load_pairs > 1:
        ours()
        baseline()
    return [(ours(), baseline()) for _ in range(env.scale.load_pairs)]


def _rates(
    what: str,
    configuration: str,
    baseline: str,
    loads: Sequence[tuple[LoadResult, LoadResult]],
    goal: Goal | None = None,
) -> Row:
    pairs = [(one.rate, other.rate) for one, other in loads]
    return Row(what, configuration, "instachat serve", baseline, "requests/s", pairs, goal)


def _with_profile(env: Environment, row: Row) -> Row:
    """With a profile, if it missed what it should be."""
    if row.verdict in (Verdict.MET, Verdict.INFORMATION):
        return row
    return replace(row, profile=profile_server(env.backend.settings))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
