"""Accepting over HTTP, against a Go gateway with four Redis calls a message, and against a bare server.

All servers get the same load (wrk, 64 connections) on the same machine; ours and the gateway use the same
Redis. wrk and Redis share the processors with the server, so a rate shows what the server does with the
rest.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backend.domain.model import MAX_BATCH
from backend.ingest.requests import AcceptRequest
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row
from instachat_cli.bench.harness.profile import profiled
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
from loadtest.run.processes import free_port

SMALL_APPLICATION_CHATS = 100
TENANTS = 64
CLIENT = f"wrk, {CONNECTIONS} connections"
CONFIGURATION = f"{CLIENT}, one message a request, one server process"

MeasureLoad = Callable[[], LoadResult]


def measure(env: Environment) -> Iterator[Row]:
    """Rates and latencies of the hot route, and the cost of durability, processes, tenants and many chats."""
    for row in _measure(env):
        yield row if row.profile else profiled(row, env, _own_path(env), "POST")


def _measure(env: Environment) -> Iterator[Row]:
    path = _own_path(env)
    port = free_port()
    with server(env.backend.settings, port):
        ours = _clearing_log(env, lambda: wrk(port, path, env.scale.seconds))
        yield _against_constant(env, ours, path)
        yield from _against_gateway(env, ours, path)
        yield _with_less_durability(env, ours)
        yield _with_many_tenants(env, port, ours)
        yield from _with_many_chats(env, port)
    yield _with_two_processes(env, path)


def _own_path(env: Environment) -> list[str]:
    """The hot route for the environment's chat."""
    return [_messages(env.chat.token, env.chat.number)]


def _against_constant(env: Environment, ours: MeasureLoad, path: Sequence[str]) -> Row:
    """Against the same HTTP server with an application that returns a constant."""
    port = free_port()
    with constant_server(port):
        loads = _pairs(env, ours, lambda: wrk(port, path, env.scale.seconds))
    return _rates(
        "accept by HTTP", CONFIGURATION, "the bare server, a constant", loads, Goal(0.4, aim=0.6)
    )


def _against_gateway(env: Environment, ours: MeasureLoad, path: Sequence[str]) -> Iterator[Row]:
    """Against a gateway with the usual four Redis calls a message, under both durabilities."""
    with tempfile.TemporaryDirectory() as folder:
        program = build_gateway(Path(folder)) if env.scale.gateway else None
        if program is None:
            stderr.note("the gateway of four Redis calls is skipped: no Go, or --quick")
            return
        port = free_port()
        for name in ("app:" + env.chat.token, f"chat:{env.chat.token}:1"):
            env.redis.set(f"gateway:{name}", 1)

        def theirs() -> LoadResult:
            found = wrk(port, path, env.scale.seconds)
            env.redis.delete("gateway:queue")
            return found

        with gateway(program, env.backend.settings.redis_url or "", port):
            yield from _rate_and_p99("accept by HTTP", CONFIGURATION, _pairs(env, ours, theirs))
            with _one_fsync_a_second(env):
                loads = _pairs(env, ours, theirs)
            yield from _rate_and_p99(
                "accept by HTTP, fast", f"{CONFIGURATION}, durability `fast`", loads
            )


def _rate_and_p99(
    what: str, configuration: str, loads: Sequence[tuple[LoadResult, LoadResult]]
) -> Iterator[Row]:
    """The rate and the 99th percentile against the gateway."""
    baseline = "a Go gateway, four Redis calls"
    yield _rates(what, configuration, baseline, loads, Goal(1.0, aim=1.5))
    yield Row(
        f"{what}, 99th percentile",
        configuration,
        "instachat serve",
        baseline,
        "ms",
        [(one.p99, other.p99) for one, other in loads],
        Goal(1.0, at_most=True),
    )


@contextmanager
def _one_fsync_a_second(env: Environment) -> Iterator[None]:
    """Redis syncs its append-only file as under `fast`."""
    env.redis.config_set("appendfsync", "everysec")
    try:
        yield
    finally:
        env.redis.config_set("appendfsync", "always")


def _with_less_durability(env: Environment, ours: MeasureLoad) -> Row:
    """The cost of the fsync before each answer."""

    def relaxed() -> LoadResult:
        with _one_fsync_a_second(env):
            return ours()

    loads = _pairs(env, ours, relaxed)
    return _rates("accept by HTTP, strict", CONFIGURATION, "fast: one fsync a second", loads, None)


def _with_many_tenants(env: Environment, port: int, ours: MeasureLoad) -> Row:
    """Requests for many applications, whose batches have counters and entries of many shards."""
    paths = []
    for _ in range(TENANTS):
        token = env.backend.catalog.applications.create("benchmark").token
        paths.append(
            _messages(token, env.backend.acceptor.accept(AcceptRequest.chats(token)).first)
        )
    env.backend.drainer.drain_all()
    many = _clearing_log(env, lambda: wrk(port, paths, env.scale.seconds))
    row = _rates(
        f"accept by HTTP, {TENANTS} applications",
        CONFIGURATION,
        "one application",
        _pairs(env, many, ours),
        Goal(0.85),
    )
    return profiled(row, env, paths, "POST")


def _with_many_chats(env: Environment, port: int) -> Iterator[Row]:
    """Reading and writing in an application with many chats, against one with a hundred."""
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
    """The gain of a second server process on this machine."""
    one, two = free_port(), free_port()
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
    """Create an application with that many stored chats; returns its token."""
    backend = env.backend
    token = backend.catalog.applications.create("benchmark").token
    for start in range(0, chats, MAX_BATCH):
        backend.acceptor.accept(AcceptRequest.chats(token, min(MAX_BATCH, chats - start)))
    backend.drainer.drain(backend.counters.shard(token))
    return token


def _messages(token: str, chat: int) -> str:
    return f"/api/v1/applications/{token}/chats/{chat}/messages"


def _clearing_log(env: Environment, load: MeasureLoad) -> MeasureLoad:
    """A load that empties the log afterwards, because no worker runs here."""

    def measured() -> LoadResult:
        found = load()
        env.clear_log()
        return found

    return measured


def _pairs(
    env: Environment, ours: MeasureLoad, baseline: MeasureLoad
) -> list[tuple[LoadResult, LoadResult]]:
    """Measure both in turn, after one unmeasured turn, which a single pair leaves out."""
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
