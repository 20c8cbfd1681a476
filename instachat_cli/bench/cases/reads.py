"""Reading over HTTP, against a Go server that answers each read with statements of its own.

Both get the same load of wrk on the same machine, and read the same rows and the same counters from the same
PostgreSQL and Redis. wrk and the engines share the processors with the server.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from backend.domain.errors import Failed
from backend.ingest.requests import AcceptRequest
from instachat_cli.bench.harness.environment import Environment
from instachat_cli.bench.harness.paired_run import Goal, Row
from instachat_cli.bench.harness.profile import profiled
from instachat_cli.bench.harness.servers import (
    CONNECTIONS,
    LoadResult,
    build_reader,
    reader,
    server,
    wrk,
)
from instachat_cli.console.stderr import stderr
from loadtest.run.processes import free_port

PAGE_SIZE = 50
LISTED_CHATS = 100
ANSWER_SECONDS = 30
WRITING_CONNECTIONS = CONNECTIONS // 10
READING_CONNECTIONS = CONNECTIONS - WRITING_CONNECTIONS
OURS = "instachat serve"
BASELINE = "a Go reader, statements of its own for each read"
P99_GOAL = Goal(1.5, at_most=True)
MEDIAN_GOAL = Goal(2.0, at_most=True)
MIXED_GOAL = Goal(2.0, at_most=True)

Load = Callable[[int], LoadResult]  # of the server on that port
Pairs = Sequence[tuple[LoadResult, LoadResult]]


class _Case(NamedTuple):
    """A read: in words, its path below the application, and the goal of its rate."""

    what: str
    path: str
    goal: Goal | None


def measure(env: Environment) -> Iterator[Row]:
    """Rates and latencies of each kind of read, and what reads cost the requests that write."""
    _store(env)
    port = free_port()
    with server(env.backend.settings, port):
        yield from _against_reader(env, port)
        yield from _reads_beside_writes(env, port)


def _store(env: Environment) -> None:
    """Fill the chat, and add other chats to its application."""
    texts = env.texts
    for start in range(0, env.scale.page_messages, len(texts)):
        env.accept_batches(texts[: env.scale.page_messages - start])
        env.drain()
    env.backend.acceptor.accept(AcceptRequest.chats(env.chat.token, LISTED_CHATS))
    env.drain()
    with env.connection() as connection, connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def _against_reader(env: Environment, port: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        program = build_reader(Path(folder)) if env.scale.gateway else None
        if program is None:
            stderr.note("the reader is skipped: no Go, or --quick")
            return
        baseline_port = free_port()
        redis_url = env.backend.settings.redis_url or ""
        with reader(program, env.driver_url, redis_url, env.chat.shard, baseline_port):
            for case in _cases(env):
                _require_same_answer(env, case, port, baseline_port)
                yield from _compare(env, case, port, baseline_port)
            yield _one_connection(env, port, baseline_port)


def _require_same_answer(env: Environment, case: _Case, port: int, baseline_port: int) -> None:
    """Raises Failed if the two servers' items differ: the reader knows the tables and keys by itself."""
    ours, theirs = (
        _answer(server_port, _url(env, case.path)) for server_port in (port, baseline_port)
    )
    if ours != theirs:
        raise Failed(f"the reader does not answer as instachat serve does: {case.what}")


def _answer(port: int, path: str) -> object:
    """The answer to a GET, without highlights, which the reader does not compute; None for an error."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_SECONDS) as answer:
            found = json.load(answer)
    except HTTPError:
        return None
    for item in found.get("items", ()):
        item.pop("highlight", None)
    return found


def _cases(env: Environment) -> Sequence[_Case]:
    middle, of_messages = env.scale.page_messages // 2, f"{env.scale.page_messages:,}"
    chat = f"/chats/{env.chat.number}"
    page = f"{chat}/messages?after={middle}&limit={PAGE_SIZE}"
    return (
        _Case("read a message", f"{chat}/messages/{middle}", Goal(0.6, aim=1.0)),
        _Case(f"read a page of {PAGE_SIZE} in a chat of {of_messages}", page, Goal(0.8, aim=1.2)),
        _Case("read a chat with its live count", chat, Goal(0.6, aim=1.0)),
        _Case(f"read a page of {PAGE_SIZE} chats", f"/chats?limit={PAGE_SIZE}", None),
        _Case("search a page, without an index", f"{page}&keyword=a", None),
    )


def _compare(env: Environment, case: _Case, port: int, baseline_port: int) -> Iterator[Row]:
    """The rate and the 99th percentile of one kind of read."""
    pairs = _pairs(env, _load(env, case.path), port, baseline_port)
    rates = [(one.rate, other.rate) for one, other in pairs]
    configuration = f"wrk, {CONNECTIONS} connections, one server process"
    rate = Row(case.what, configuration, OURS, BASELINE, "requests/s", rates, case.goal)
    yield _profiled(env, rate, case.path)
    p99s = [(one.p99, other.p99) for one, other in pairs]
    what, goal = f"{case.what}, 99th percentile", case.goal and P99_GOAL
    yield _profiled(env, Row(what, configuration, OURS, BASELINE, "ms", p99s, goal), case.path)


def _one_connection(env: Environment, port: int, baseline_port: int) -> Row:
    """The median of a message when nothing else is read, so that nothing can be grouped."""
    case = _cases(env)[0]
    pairs = _pairs(env, _load(env, case.path, connections=1), port, baseline_port)
    medians = [(one.median, other.median) for one, other in pairs]
    configuration = "wrk, 1 connection, one server process"
    row = Row(f"{case.what}, median", configuration, OURS, BASELINE, "ms", medians, MEDIAN_GOAL)
    return _profiled(env, row, case.path)


def _reads_beside_writes(env: Environment, port: int) -> Iterator[Row]:
    """The 99th percentile of accepting while nine in ten connections read, against all of them writing."""
    read = _load(env, _cases(env)[1].path, connections=READING_CONNECTIONS)
    messages = f"/chats/{env.chat.number}/messages"

    def write(connections: int) -> LoadResult:
        found = _load(env, messages, "POST", connections)(port)
        env.clear_log()
        return found

    def beside_reads() -> LoadResult:
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit(read, port)
            written = write(WRITING_CONNECTIONS)
            reading.result()
        return written

    for alone, goal in ((CONNECTIONS, MIXED_GOAL), (WRITING_CONNECTIONS, None)):
        beside_reads()
        write(alone)
        pairs = [(beside_reads(), write(alone)) for _ in range(env.scale.load_pairs)]
        yield Row(
            "accept by HTTP beside reads of pages, 99th percentile",
            f"wrk, {READING_CONNECTIONS} connections read, {WRITING_CONNECTIONS} create",
            OURS,
            f"the same server, {alone} connections create and none reads",
            "ms",
            [(one.p99, other.p99) for one, other in pairs],
            goal,
        )


def _profiled(env: Environment, row: Row, path: str) -> Row:
    return profiled(row, env, [_url(env, path)], "GET")


def _url(env: Environment, path: str) -> str:
    return f"/api/v1/applications/{env.chat.token}{path}"


def _load(env: Environment, path: str, method: str = "GET", connections: int = CONNECTIONS) -> Load:
    """The load of a path below the application."""
    paths = [_url(env, path)]
    return lambda port: wrk(port, paths, env.scale.seconds, method, connections)


def _pairs(env: Environment, load: Load, port: int, baseline_port: int) -> Pairs:
    """Measure both in turn, after one unmeasured turn, which a single pair leaves out."""
    if env.scale.load_pairs > 1:
        load(port)
        load(baseline_port)
    return [(load(port), load(baseline_port)) for _ in range(env.scale.load_pairs)]
