"""The time from an answered creation to its event at a follower: alone, and under half the load.

The load is half of what one drain stores alone, in another chat of the same shard, so that the measured
messages wait behind it in the log.
"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from statistics import quantiles

from backend.domain.errors import Failed
from backend.ingest.requests import AcceptRequest
from instachat_cli.bench.harness.environment import BATCH_SIZE, Environment
from instachat_cli.bench.harness.paired_run import Goal, Row
from instachat_cli.bench.harness.servers import server, worker
from loadtest.run.processes import free_port

GOAL = Goal(must=1.0, at_most=True)
IDLE_P50_MS = 50.0
LOADED_P99_MS = 250.0
INTERVAL_SECONDS = 0.1  # between two measured messages, and between two requests of the load
TIMEOUT_SECONDS = 60.0


def measure(env: Environment) -> Iterator[Row]:
    """The latency of following a chat."""
    rate = _drain_rate(env) / 2
    token = env.chat.token
    chat = env.backend.acceptor.accept(AcceptRequest.chats(token)).first
    env.drain()
    path = f"/api/v1/applications/{token}/chats/{chat}/messages"
    port = free_port()
    with server(env.backend.settings, port), worker(env.backend), _Follower(port, path) as follower:
        idle = _latencies(env, follower)
        with _load(env, rate):
            loaded = _latencies(env, follower)
    every = (
        f"one message every {INTERVAL_SECONDS:g} s for {env.scale.steady_seconds:g} s; one worker"
    )
    for what, place, found, configuration, limit in (
        ("idle, p50", 49, idle, every, IDLE_P50_MS),
        (
            "half load, p99",
            98,
            loaded,
            f"{every}; {rate:,.0f} messages/s in another chat",
            LOADED_P99_MS,
        ),
    ):
        value = quantiles(found, n=100, method="inclusive")[place] * 1000
        yield Row(
            f"accepted to delivered, {what}",
            configuration,
            "accepted to delivered",
            "the promise",
            "ms",
            [(value, limit)],
            GOAL,
        )


def _drain_rate(env: Environment) -> float:
    """Messages a second that a drain stores."""
    env.accept_batches(env.texts)
    started_at = time.perf_counter()
    env.drain()
    return len(env.texts) / (time.perf_counter() - started_at)


@contextmanager
def _load(env: Environment, rate: float) -> Iterator[None]:
    """Accept so many messages a second, in the environment's chat."""
    stopping = threading.Event()
    size = max(int(rate * INTERVAL_SECONDS), 1)

    def run() -> None:
        while not stopping.wait(INTERVAL_SECONDS):
            for start in range(0, size, BATCH_SIZE):
                env.accept_batches(env.texts[start : min(start + BATCH_SIZE, size)])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _latencies(env: Environment, follower: "_Follower") -> list[float]:
    """Seconds from the answer to each message until its event has arrived."""
    answered = follower.create_messages(env.scale.steady_seconds)
    return [max(follower.wait_arrival(number) - at, 0.0) for number, at in answered.items()]


class _Follower:
    """Follows a chat over HTTP in a thread, and creates messages in it."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._arrivals: dict[int, float] = {}
        self._arrived = threading.Condition()
        self._stream = http.client.HTTPConnection("127.0.0.1", port)

    def __enter__(self) -> "_Follower":
        self._stream.connect()
        self._socket: socket.socket = self._stream.sock
        self._stream.request("GET", f"{self._path}/stream")
        self._response = self._stream.getresponse()
        if self._response.status != 200:
            raise Failed("the chat can't be followed")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._stream.close()

    def create_messages(self, seconds: float) -> dict[int, float]:
        """Create messages for so long; returns when each number was answered."""
        answered: dict[int, float] = {}
        body = json.dumps({"message": {"text": "Good morning"}})
        headers = {"Content-Type": "application/json"}
        started_at = time.perf_counter()
        with closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            while time.perf_counter() - started_at < seconds:
                connection.request("POST", self._path, body, headers)
                number = json.loads(connection.getresponse().read())["number"]
                answered[number] = time.perf_counter()
                time.sleep(INTERVAL_SECONDS)
        return answered

    def wait_arrival(self, number: int) -> float:
        """When the event of a number arrived. Raises Failed if it takes too long."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._arrivals, TIMEOUT_SECONDS):
                raise Failed(f"a message was not delivered within {TIMEOUT_SECONDS:.0f} s")
            return self._arrivals[number]

    def _read(self) -> None:
        with suppress(OSError, http.client.HTTPException):  # the end of the measurement
            while line := self._response.readline():
                name, _, value = line.partition(b": ")
                if name == b"id":
                    with self._arrived:
                        self._arrivals[int(value)] = time.perf_counter()
                        self._arrived.notify_all()
