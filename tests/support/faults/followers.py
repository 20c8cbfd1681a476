"""Followers and senders of one chat, while processes and engines are killed and restarted at random."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPException
from pathlib import Path

from backend.bootstrap import open_backend
from backend.settings import Settings
from backend.storage.redis.workers import Workers
from tests.http.conftest import start_worker
from tests.support.engines import PostgresServer, RedisServer
from tests.support.event_stream import ReconnectingClient
from tests.support.faults.load import drain_completely
from tests.support.http_server import ApplicationClient, HttpServer, server_processes
from tests.support.waiting import PATIENCE_SECONDS, wait_until

FOLLOWERS = 6
SENDERS = 2
OUTAGE_SECONDS = (0.1, 1.5)


class Sender:
    """Creates messages, one after another, and keeps a ledger of the answers."""

    def __init__(self, server: HttpServer, chat: str, name: str) -> None:
        self.answered: dict[int, str] = {}
        self._server = server
        self._chat = chat
        self._name = name
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        sent = 0
        while not self._stopping.is_set():
            sent += 1
            text = f"{self._name} {sent}"
            try:
                answer = self._server(
                    "POST", f"{self._chat}/messages", {"message": {"text": text}}, timeout=5
                )
            except (OSError, HTTPException):
                self._stopping.wait(0.05)
                continue
            if answer.status == 202:
                assert answer.json["number"] not in self.answered
                self.answered[answer.json["number"]] = text
            self._stopping.wait(0.01)


class FollowedInstallation:
    """A server of two processes, a worker, and engines that faults may damage; one chat."""

    def __init__(
        self,
        stack: ExitStack,
        settings: Settings,
        postgres: PostgresServer,
        redis: RedisServer,
        folder: Path,
    ) -> None:
        self.settings = settings
        self.postgres = postgres
        self.redis = redis
        self.server = HttpServer(settings, folder, "--workers", "2")
        stack.callback(self.server.remove)
        self.server.wait_ready()
        self.worker = start_worker(self.server)
        stack.callback(self._remove_worker)
        self.app = ApplicationClient(self.server)
        self.chat = self.app.chat()
        self.app.message(self.chat, "the first")
        self.followers = [ReconnectingClient(self.server.port, self.chat) for _ in range(FOLLOWERS)]
        self.senders = [Sender(self.server, self.chat, f"sender{n}") for n in range(SENDERS)]

    def _remove_worker(self) -> None:
        self.worker.kill()
        self.worker.wait()

    def disturb(self, dice: random.Random) -> str:
        """One fault; returns its name."""
        faults: dict[str, Callable[[float], None]] = {
            "a server process is killed": self._kill_server_process,
            "the server is killed": self._kill_server,
            "the server is restarted": self._restart_server,
            "the worker is killed": self._kill_worker,
            "the queue is paused": self._pause_queue,
            "Redis is killed": self._kill_redis,
            "Redis hangs": self._stop_redis,
            "PostgreSQL is killed": self._kill_postgres,
            "followers are disconnected": self._disconnect,
        }
        name = dice.choice(sorted(faults))
        time.sleep(dice.uniform(0, 0.3))
        faults[name](dice.uniform(*OUTAGE_SECONDS))
        return name

    def finish(self) -> list[str]:
        """Stop sending, wait until all is stored and delivered; returns what is wrong."""
        for sender in self.senders:
            sender.stop()
        with open_backend(self.settings) as backend:
            drain_completely(backend)  # the worker may be storing the last messages
            token, _, chat = self.chat.partition("/chats/")
            token = token.rpartition("/")[2]
            stored = {m.number: m.text for m in backend.catalog.messages.list(token, int(chat))}
        last = max(stored)
        answered = {n: text for sender in self.senders for n, text in sender.answered.items()}
        wrong = [
            f"{n} was answered and is not stored" for n in answered if stored.get(n) != answered[n]
        ]
        for place, follower in enumerate(self.followers):
            follower.wait_for(last)
            follower.stop()
            if follower.numbers != list(range(1, last + 1)):
                wrong.append(f"follower {place}: {_first_difference(follower.numbers)}")
            if follower.texts != stored:
                wrong.append(f"follower {place} has other texts than those that are stored")
        return wrong

    def _kill_server_process(self, _: float) -> None:
        for process in server_processes(self.server)[:1]:
            process.kill()

    def _kill_server(self, seconds: float) -> None:
        children = server_processes(self.server)
        self.server.process.send_signal(signal.SIGKILL)
        for child in children:
            child.kill()
        self.server.process.wait()
        for child in children:
            child.wait(PATIENCE_SECONDS)
        time.sleep(seconds)
        self.server.start()

    def _restart_server(self, seconds: float) -> None:
        self.server.stop()
        time.sleep(seconds)
        self.server.start()

    def _kill_worker(self, seconds: float) -> None:
        self._remove_worker()
        time.sleep(seconds)
        self.worker = start_worker(self.server)

    def _pause_queue(self, seconds: float) -> None:
        with closing(Workers(self.redis.url)) as workers:
            workers.pause()
            time.sleep(seconds)
            workers.resume()

    def _kill_redis(self, seconds: float) -> None:
        self.redis.kill()
        time.sleep(seconds)
        self.redis.start()

    def _stop_redis(self, seconds: float) -> None:
        self.redis.send(signal.SIGSTOP)
        time.sleep(seconds)
        self.redis.send(signal.SIGCONT)

    def _kill_postgres(self, seconds: float) -> None:
        self.postgres.send_all(signal.SIGKILL)
        assert self.postgres.process
        self.postgres.process.wait()
        time.sleep(seconds)
        self.postgres.start()

    def _disconnect(self, _: float) -> None:
        for follower in self.followers:
            follower.disconnect()


@contextmanager
def followed_installation(
    settings: Settings, postgres: PostgresServer, redis: RedisServer, folder: Path
) -> Iterator[FollowedInstallation]:
    """An installation with followers and senders, which end with it."""
    with ExitStack() as stack:
        made = FollowedInstallation(stack, settings, postgres, redis, folder)
        for follower in made.followers:
            stack.callback(follower.stop)
        for sender in made.senders:
            stack.callback(sender.stop)
        yield made


def wait_progress(made: FollowedInstallation, count: int) -> None:
    """Wait until each follower was told of so many more numbers."""
    targets = [(follower, len(follower.numbers) + count) for follower in made.followers]
    wait_until(lambda: all(len(follower.numbers) >= target for follower, target in targets))


def _first_difference(numbers: list[int]) -> str:
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            return f"{number} came in place of {expected}"
    return f"it ends with {len(numbers)}"
