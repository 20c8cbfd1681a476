"""A load under `strict` on traced engines: what they did to their files, and what was answered when."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from typing import NamedTuple

from redis.exceptions import ResponseError

from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.support.engines import RedisServer, Server
from tests.support.power_loss.disk import Disk
from tests.support.power_loss.trace import Operation, read_trace, strace_command
from tests.support.waiting import PATIENCE_SECONDS, wait_until

CLIENTS = 3
CHATS = 4
MAX_TEXTS = 700  # of a request: more than one entry has
REWRITE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """The messages of a request that was answered by a time of `time.time`."""

    at: float
    token: str
    chat: int
    first: int
    texts: list[str]


class Step(NamedTuple):
    """An operation, and which of the recording's disks it is made on."""

    disk: int
    operation: Operation


@dataclass
class Recording:
    """What was done to disks and answered. Each disk is below the folder of the same place."""

    folders: Sequence[Path]
    disks: Sequence[Disk]
    """As they were before the steps."""
    steps: list[Step] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Traced:
    """A server that strace records from its start on."""

    def __init__(self, server: Server, folder: Path, output: Path) -> None:
        """`folder` is where the server works; `output` is writable by its user."""
        self.server = server
        self.folder = folder
        self._output = output

    def start(self) -> None:
        """Start it."""
        command = self.server.command
        self.server.command = [*strace_command(self._output), *command]
        try:
            self.server.start()
        finally:
            self.server.command = command

    def operations(self) -> Iterator[Operation]:
        """All that it has done; once it has stopped."""
        wait_until(self._is_complete)
        return read_trace(self._output, self.folder)

    def _is_complete(self) -> bool:
        assert self.server.process
        with self._output.open("rb") as output:
            output.seek(max(0, self._output.stat().st_size - 4_096))
            end = output.read().decode()
        ended = rf"^{self.server.process.pid} .*\+\+\+ (exited|killed)"
        return re.search(ended, end, re.MULTILINE) is not None


def merged(traces: Iterable[Traced]) -> list[Step]:
    """The operations of several servers in one order."""
    steps = (
        [Step(nth, operation) for operation in traced.operations()]
        for nth, traced in enumerate(traces)
    )
    return list(merge(*steps, key=lambda step: step.operation.at))


@contextmanager
def recorded_load(
    settings: Settings, binary: Path, *options: str, seconds: float, seed: int, folder: Path
) -> Iterator[Recording]:
    """A recording of clients that were busy for so many seconds, while the log was rewritten again and again.

    `settings` have a database. The server is new, and its folder is deleted at the end.
    """
    server = RedisServer(binary, *options)
    traced = Traced(server, server.folder, folder / "trace")
    recording = Recording([server.folder], [Disk()])
    try:
        traced.start()
        used = settings.model_copy(update={"redis_url": server.url})
        with open_backend(used) as backend:
            run_load(backend, recording, seconds, seed, lambda: rewrite(server))
        server.stop()
        recording.steps += merged([traced])
        yield recording
    finally:
        server.remove()


def run_load(
    backend: Backend,
    recording: Recording,
    seconds: float,
    seed: int,
    disturb: Callable[[], bool],
) -> None:
    """Have clients create messages for so many seconds, and until `disturb`, which is called again and again,
    has done enough.
    """
    token = backend.catalog.applications.create("power").token
    backend.acceptor.accept(AcceptRequest.chats(token, CHATS))
    is_over = threading.Event()
    dice = random.Random(seed)
    clients = [
        threading.Thread(
            target=_create, args=(backend, token, recording, random.Random(dice.random()), is_over)
        )
        for _ in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    begin, is_enough = time.monotonic(), False
    try:
        while time.monotonic() < begin + seconds or not is_enough:
            time.sleep(REWRITE_SECONDS)
            is_enough = disturb()
            assert time.monotonic() < begin + seconds + PATIENCE_SECONDS
    finally:
        is_over.set()
        for client in clients:
            client.join()


def rewrite(server: RedisServer) -> bool:
    """Begin to rewrite the log, unless that is under way; returns whether it has been rewritten before."""
    with server.client() as client:
        with suppress(ResponseError):
            client.bgrewriteaof()
        began: int = client.info("persistence")["aof_rewrites"]
        return began > 1


def _create(
    backend: Backend,
    token: str,
    recording: Recording,
    dice: random.Random,
    is_over: threading.Event,
) -> None:
    while True:
        chat = dice.randint(1, CHATS)
        count = dice.choice((1, 1, 1, 1, 1, 1, dice.randint(2, 20), dice.randint(1, MAX_TEXTS)))
        texts = [
            f"{dice.getrandbits(64):x}" * dice.choice((1, 1, 1, 1, 1, 5)) for _ in range(count)
        ]
        accepted = backend.acceptor.accept(AcceptRequest.messages(token, chat, texts))
        recording.answers.append(Answer(time.time(), token, chat, accepted.first, texts))
        if is_over.is_set():
            return
