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
from backend.ingest import accept
from instachat_cli.bench.harness.environment import Ground
from instachat_cli.bench.harness.paired_run import Goal, Row, Verdict
from instachat_cli.bench.harness.profile import profile
from instachat_cli.bench.harness.servers import (
    CONNECTIONS,
    Load,
    bare_server,
    build_gateway,
    gateway,
    server,
    wrk,
)
from instachat_cli.console.stderr import talk

FEW = 100  # chats
TENANTS = 64
CLIENT = f"wrk, {CONNECTIONS} connections"
HOW = f"{CLIENT}, one message a request, one server process"

Measure = Callable[[], Load]


def measure(ground: Ground) -> Iterator[Row]:
    """Rates and latencies of the hot route; what durability, processes, tenants and many chats cost."""
    for row in _measure(ground):
        yield _explained(ground, row)


def _measure(ground: Ground) -> Iterator[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seconds = ground.scale.seconds
        path = [_messages(ground.chat.token, ground.chat.number)]
        port = _free_port()
        stack.enter_context(server(ground.backend.settings, port))
        ours = _then_forget(ground, lambda: wrk(port, path, seconds))

        bare_port = _free_port()
        with bare_server(bare_port):
            loads = _pairs(ground, ours, lambda: wrk(bare_port, path, seconds))
        yield _rates(
            "accept by HTTP", HOW, "the bare server, a constant", loads, Goal(0.4, aim=0.6)
        )

        program = build_gateway(folder) if ground.scale.gateway else None
        if program is None:
            talk.note("without Go, or in a hurry: the gateway of four Redis calls is left out")
        else:
            rival_port = _free_port()
            for name in ("app:" + ground.chat.token, f"chat:{ground.chat.token}:1"):
                ground.redis.set(f"gateway:{name}", 1)
            with gateway(program, ground.backend.settings.redis_url or "", rival_port):
                loads = _pairs(ground, ours, lambda: wrk(rival_port, path, seconds))
            rival = "a Go gateway, four Redis calls"
            yield _rates("accept by HTTP", HOW, rival, loads, Goal(1.2, aim=2.0))
            pairs = [(one.p99, other.p99) for one, other in loads]
            goal = Goal(1.0, at_most=True)
            what = "accept by HTTP, 99th percentile"
            yield Row(what, HOW, "instachat serve", rival, "ms", pairs, goal)

        yield _with_less_durability(ground, ours)
        yield _with_many_tenants(ground, port, ours)
        yield from _with_many_chats(ground, port)
    yield _with_two_processes(ground, path)


def _with_less_durability(ground: Ground, ours: Measure) -> Row:
    """What the fsync before each answer costs."""

    def relaxed() -> Load:
        ground.redis.config_set("appendfsync", "everysec")
        try:
            return ours()
        finally:
            ground.redis.config_set("appendfsync", "always")

    loads = _pairs(ground, ours, relaxed)
    return _rates("accept by HTTP, strict", HOW, "fast: one fsync a second", loads, None)


def _with_many_tenants(ground: Ground, port: int, ours: Measure) -> Row:
    """Requests of many applications: a batch is then one call for each of their shards."""
    paths = []
    for _ in range(TENANTS):
        token = ground.backend.catalog.create_application("benchmark").token
        paths.append(_messages(token, ground.backend.acceptor.accept(accept.chats(token)).first))
    many = _then_forget(ground, lambda: wrk(port, paths, ground.scale.seconds))
    return _rates(
        f"accept by HTTP, {TENANTS} applications",
        HOW,
        "one application",
        _pairs(ground, many, ours),
    )


def _with_many_chats(ground: Ground, port: int) -> Iterator[Row]:
    """An application with very many chats, against one with a hundred: reading and writing."""
    crowded, small = (_application(ground, count) for count in (ground.scale.crowd, FEW))
    what = f"an application of {ground.scale.crowd:,} chats"
    seconds = ground.scale.seconds
    for name, method, path in (
        ("show a chat of", "GET", "/chats/{}"),
        ("list the last chats of", "GET", "/chats?after={}"),
        ("accept by HTTP in", "POST", "/chats/{}/messages"),
    ):

        def load(token: str, count: int, method: str = method, path: str = path) -> Measure:
            at = f"/api/v1/applications/{token}" + path.format(count - FEW // 2)
            return _then_forget(ground, lambda: wrk(port, [at], seconds, method))

        loads = _pairs(ground, load(crowded, ground.scale.crowd), load(small, FEW))
        how = HOW if method == "POST" else f"{CLIENT}, one server process"
        yield _rates(f"{name} {what}", how, f"one of {FEW}", loads, Goal(0.7))


def _with_two_processes(ground: Ground, path: Sequence[str]) -> Row:
    """What a second server process brings on this machine."""
    one, two = _free_port(), _free_port()
    settings, seconds = ground.backend.settings, ground.scale.seconds
    with server(settings, one), server(settings, two, 2):
        loads = _pairs(
            ground,
            _then_forget(ground, lambda: wrk(two, path, seconds)),
            _then_forget(ground, lambda: wrk(one, path, seconds)),
        )
    how = f"{CLIENT}, one message a request"
    return _rates("accept by HTTP, two server processes", how, "one", loads)


def _application(ground: Ground, chats: int) -> str:
    """An application of so many stored chats."""
    backend = ground.backend
    token = backend.catalog.create_application("benchmark").token
    for start in range(0, chats, MAX_BATCH):
        backend.acceptor.accept(accept.chats(token, min(MAX_BATCH, chats - start)))
    backend.drainer.drain(backend.counters.shard(token))
    return token


def _messages(token: str, chat: int) -> str:
    return f"/api/v1/applications/{token}/chats/{chat}/messages"


def _then_forget(ground: Ground, load: Measure) -> Measure:
    """A load whose messages are dropped from the log afterwards, as no worker runs here."""

    def measured() -> Load:
        found = load()
        for shard in range(ground.backend.database.installation.shards):
            ground.redis.xtrim(ground.backend.log.key(shard, "log"), maxlen=0, approximate=False)
        return found

    return measured


def _pairs(ground: Ground, ours: Measure, rival: Measure) -> list[tuple[Load, Load]]:
    """Both in turn, after a turn that does not count; in a hurry without that one."""
    if ground.scale.loads > 1:
        ours()
        rival()
    return [(ours(), rival()) for _ in range(ground.scale.loads)]


def _rates(
    what: str,
    how: str,
    rival: str,
    loads: Sequence[tuple[Load, Load]],
    goal: Goal | None = None,
) -> Row:
    pairs = [(one.rate, other.rate) for one, other in loads]
    return Row(what, how, "instachat serve", rival, "requests/s", pairs, goal)


def _explained(ground: Ground, row: Row) -> Row:
    """With a profile, if it missed what it should be."""
    if row.verdict in (Verdict.MET, Verdict.INFORMATION):
        return row
    return replace(row, profile=profile(ground.backend.settings))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
