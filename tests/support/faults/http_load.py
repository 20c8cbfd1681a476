"""A load over HTTP on several servers, as clients behind a load balancer send it.

Each client keeps a connection, and moves to another server if its own does not answer. It repeats a creation
whose answer was lost with the same idempotency key, so the ledger knows what became of each.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from tests.support.http_server import HttpResponse, exchange
from tests.support.ledger import Ledger
from tests.support.program_logs import MARKER
from tests.support.waiting import PATIENCE_SECONDS, wait_until

CHATS = 3  # that are written to; one more has the messages that are edited
WRITERS = 2
PAUSE_SECONDS = 0.02  # between two requests of a client, so that other tests have their turn
MOVE_SHARE = 0.05  # of all requests: the client then connects again, to any server
API = "/api/v1/applications"


class Server(Protocol):
    """A server on this machine."""

    port: int


class HttpLoad:
    """Clients that create, edit, read and search messages of one application until they are stopped."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.servers = [server]
        """The servers behind the load balancer; a test may change the list at any time."""
        self.answers: Counter[Server] = Counter()
        """How many requests each server has answered, those with 503 not counted."""
        self.ledgers = [folder / f"ledger-{number}" for number in range(WRITERS)]
        self.edited: dict[int, str] = {}
        """The text of each edited message, by its number."""
        setup = _Client(self, 0)
        made = setup.send("POST", API, {"application": {"name": "upgraded"}})
        assert made.status == HTTPStatus.CREATED, made
        self._token = made.json["token"]
        self._chats = f"{API}/{self._token}/chats"
        for number in range(1, CHATS + 2):
            assert setup.create(self._chats)["number"] == number
        self._clients: list[Future[None]] = []
        self._stopping = threading.Event()

    @property
    def edited_chat(self) -> tuple[str, int]:
        """The token of the application, and the number of the chat whose messages are edited."""
        return self._token, CHATS + 1

    def start(self, executor: ThreadPoolExecutor) -> None:
        """Start the clients, each in a thread."""
        for number, path in enumerate(self.ledgers):
            self._clients.append(executor.submit(self._write, number, Ledger(path)))
        self._clients += [executor.submit(self._edit), executor.submit(self._read)]

    def stop(self) -> None:
        """Have each client end after its request, and wait for that. Raises what has failed a client."""
        self._stopping.set()
        for client in self._clients:
            client.result()

    def wait_answers(self, count: int) -> None:
        """Wait until each server has answered so many more requests. Raises what has failed a client."""
        goals = {server: self.answers[server] + count for server in self.servers}

        def are_reached() -> bool:
            for client in self._clients:
                if client.done():
                    client.result()
            return all(self.answers[server] >= goal for server, goal in goals.items())

        wait_until(are_reached)

    def _write(self, number: int, ledger: Ledger) -> None:
        client = _Client(self, number)
        sent = 0
        while not self._stopping.is_set():
            chat = client.dice.randint(1, CHATS)
            size = client.dice.randint(1, 5)
            texts = [f"{MARKER} {number} {sent + nth} سلام" for nth in range(size)]
            sent += len(texts)
            body = {"messages": [{"text": text} for text in texts]}
            created = client.create(f"{self._chats}/{chat}/messages/batch", body)
            assert created["last"] - created["first"] == len(texts) - 1
            ledger.record_answer(self._token, chat, created["first"], texts)

    def _edit(self) -> None:
        client = _Client(self, WRITERS)
        messages = f"{self._chats}/{CHATS + 1}/messages"
        while not self._stopping.is_set():
            number = client.create(messages, {"message": {"text": "first"}})["number"]
            text = f"{MARKER} edited {number}"
            status = HTTPStatus.ACCEPTED
            while status == HTTPStatus.ACCEPTED:  # the message is not stored yet
                edit = {"message": {"text": text}}
                status = HTTPStatus(client.send("PATCH", f"{messages}/{number}", edit).status)
            assert status == HTTPStatus.OK
            self.edited[number] = text

    def _read(self) -> None:
        client = _Client(self, WRITERS + 1)
        while not self._stopping.is_set():
            chat = f"{self._chats}/{client.dice.randint(1, CHATS + 1)}"
            for path in ("", "/messages?limit=20", "/messages/1", "/messages?keyword=edited"):
                read = client.send("GET", chat + path)
                # 202, 404: the chat or the message is not stored, or not created yet.
                assert read.status in (200, 202, 404), read


class _Client:
    """One connection, to whichever server answers."""

    def __init__(self, load: HttpLoad, number: int) -> None:
        self.dice = random.Random(number)
        self._load = load
        self._server = load.servers[0]
        self._connection: http.client.HTTPConnection | None = None

    def create(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Create something, exactly once; returns the answer's body."""
        key = {"Idempotency-Key": f"{self.dice.getrandbits(128):x}"}
        created = self.send("POST", path, body, key)
        assert created.status == HTTPStatus.ACCEPTED, created
        answer: dict[str, Any] = created.json
        return answer

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send a request until a server answers it. The only 5xx is a 503 that says when to try again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        raw = json.dumps(body).encode() if body else None
        named = {"Content-Type": "application/json"} if body else {}
        while True:
            time.sleep(PAUSE_SECONDS)
            assert time.monotonic() < deadline, f"no server answers {method} {path}"
            if self._connection is None or self.dice.random() < MOVE_SHARE:
                self._connect()
            assert self._connection
            try:
                answer = exchange(self._connection, method, path, raw, named | dict(headers or {}))
            except (OSError, http.client.HTTPException):  # the server ends, or is not there yet
                self._connect()
                continue
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                assert "retry-after" in answer.headers, answer
                self._connect()
                continue
            assert answer.status < HTTPStatus.INTERNAL_SERVER_ERROR, answer
            self._load.answers[self._server] += 1
            return answer

    def _connect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server = self.dice.choice(self._load.servers)
        self._connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)


@contextmanager
def http_load(server: Server, folder: Path) -> Iterator[HttpLoad]:
    """A load that runs while inside, at first on one server, which may still be starting."""
    load = HttpLoad(server, folder)
    with ThreadPoolExecutor(WRITERS + 2) as executor:
        load.start(executor)
        try:
            yield load
        finally:
            load.stop()
