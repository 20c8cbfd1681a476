"""What the clients of a history do: many of them change and read the same few messages at the same time.

A seed decides what each client does, as far as the answers that it gets allow.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import uuid4

from tests.support.histories.exchanges import Exchange
from tests.support.histories.recorder import Client, Recorder

CHATS = 3  # that are there at the same time
HOT_MESSAGES = 8  # the newest of a chat, which most requests concern
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty")
RETRY_SECONDS = 0.1  # before a request that was not answered is repeated
CREATE_ATTEMPTS = 100
REPEATED = 0.1  # of the creations with a key are sent once more after their answer
OLD_TAGS = 0.3  # of the changes with If-Match have a tag from before, if a client knows one
MAX_FOLLOWING_SECONDS = 8.0  # for which a follower keeps a connection


@dataclass
class Chat:
    """What the clients know of a chat."""

    path: str
    numbers: list[int] = field(default_factory=list)
    """The numbers that creations were answered with, in the order of the answers."""
    is_closing: bool = False

    @property
    def messages(self) -> str:
        """The path of its messages."""
        return f"{self.path}/messages"


class Workload:
    """Clients, each in a thread, with one application and its chats."""

    def __init__(
        self,
        recorder: Recorder,
        new_client: Callable[[int], Client],
        servers: int,
        seed: int,
        *,
        clients: int = 10,
        followers: int = 2,
        max_messages: int = 400,
        pause_seconds: float = 0.03,
    ) -> None:
        """`servers` is the number of processes that a client may ask.

        A chat with more than `max_messages` is deleted, and another one created. `pause_seconds` is how long
        a client waits between two requests, on average.
        """
        self.recorder = recorder
        self.new_client = new_client
        self.first_tags: dict[str, str] = {}
        """By the path of a message, the first of its entity tags that any client has got."""
        self.servers = servers
        self.seed = seed
        self.max_messages = max_messages
        self.pause_seconds = pause_seconds
        self.chats: list[Chat] = []
        self._counts = clients, followers
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(clients + followers)
        self._running: list[Future[None]] = []

    def start(self) -> None:
        """Create the application and its chats, then start the clients."""
        setup = _Busy(self, -1)
        name = {"application": {"name": f"history {self.seed}"}}
        made = setup.repeat("/api/v1/applications", name)
        self.application = f"/api/v1/applications/{made.answer['token']}"
        for _ in range(CHATS):
            self.chats.append(setup.new_chat())
        setup.client.close()
        clients, followers = self._counts
        for number in range(clients):
            self._running.append(self._pool.submit(_Busy(self, number).run))
        for number in range(clients, clients + followers):
            self._running.append(self._pool.submit(_Follower(self, number).run))

    def stop(self) -> None:
        """Have each client end after its request. Raises what has failed one."""
        self._stopping.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()

    def run_to_the_end(self, answers: int) -> None:
        """Wait for so many exchanges, then stop."""
        while len(self.recorder.history) < answers and not any(
            client.done() for client in self._running
        ):
            self._stopping.wait(0.01)
        self.stop()

    def read_everything(self) -> None:
        """Read every page of every chat at each process, and its stream: at the end, nothing may lack."""
        reader = _Busy(self, -2)
        for chat in self.chats:
            for server in range(self.servers):
                reader.read_all_pages(chat, server)
        reader.client.close()

    @property
    def is_stopping(self) -> bool:
        """Whether the clients are to end."""
        return self._stopping.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, unless it is time to end."""
        self._stopping.wait(seconds)

    def replace(self, chat: Chat, other: Chat) -> None:
        """Use another chat instead of one."""
        with self._lock:
            self.chats[self.chats.index(chat)] = other

    def close_once(self, chat: Chat) -> bool:
        """Whether the caller is the one that deletes a chat."""
        with self._lock:
            was_closing, chat.is_closing = chat.is_closing, True
            return not was_closing


class _Busy:
    """A client that makes all kinds of requests."""

    def __init__(self, workload: Workload, number: int) -> None:
        self.workload = workload
        self.client = workload.new_client(number)
        self.dice = random.Random(f"{workload.seed} {number}")
        self._texts = 0
        self._actions: list[tuple[Callable[[Chat], object], int]] = [
            (self._create, 14),
            (self._create_batch, 4),
            (self._create_stored, 3),
            (self._edit, 14),
            (self._edit_if_match, 12),
            (self._delete, 4),
            (self._delete_if_match, 2),
            (self._read, 18),
            (self._page, 10),
            (self._newest, 8),
            (self._named, 4),
            (self._search, 10),
            (self._count, 5),
            (self._list_chats, 3),
        ]

    def run(self) -> None:
        """Make one request after another."""
        actions = [action for action, _ in self._actions]
        weights = [weight for _, weight in self._actions]
        try:
            while not self.workload.is_stopping:
                chat = self.dice.choice(self.workload.chats)
                if len(chat.numbers) > self.workload.max_messages and self.workload.close_once(
                    chat
                ):
                    self._replace(chat)
                    continue
                self.dice.choices(actions, weights)[0](chat)
                self.workload.wait(self.dice.expovariate(1 / self.workload.pause_seconds))
        finally:
            self.client.close()

    # -- creations -----------------------------------------------------------------------------------

    def repeat(self, path: str, body: object = None) -> Exchange:
        """Create something at whichever process answers, with one key, until it is answered."""
        key = uuid4().hex
        for _ in range(CREATE_ATTEMPTS):
            made = self.client.ask(self._server(), "POST", path, body=body, key=key)
            if made.status is not None and made.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                if self.dice.random() < REPEATED:
                    self.client.ask(self._server(), "POST", path, body=body, key=key)
                return made
            time.sleep(RETRY_SECONDS)
        raise AssertionError(f"nothing is created by {path}")

    def new_chat(self) -> Chat:
        """Create a chat."""
        made = self.repeat(f"{self.workload.application}/chats")
        return Chat(f"{self.workload.application}/chats/{made.answer['number']}")

    def _text(self) -> str:
        """A text that nobody else writes, with two words that others have."""
        self._texts += 1
        first, second = self.dice.sample(WORDS, 2)
        return f"{first} {second} {self.workload.seed}.{self.client.number}.{self._texts}"

    def _create(self, chat: Chat) -> None:
        body = {"message": {"text": self._text()}}
        if self.dice.random() < 0.5:
            made = self.repeat(chat.messages, body)
        else:
            made = self.client.ask(self._server(), "POST", chat.messages, body=body)
        self._note(chat, made)

    def _create_batch(self, chat: Chat) -> None:
        body = {"messages": [{"text": self._text()} for _ in range(self.dice.randint(2, 6))]}
        self._note(chat, self.repeat(f"{chat.messages}/batch", body))

    def _create_stored(self, chat: Chat) -> None:
        body = {"message": {"text": self._text()}}
        waiting = {"wait": "stored"}
        made = self.client.ask(self._server(), "POST", chat.messages, query=waiting, body=body)
        self._note(chat, made)

    def _note(self, chat: Chat, made: Exchange) -> None:
        if made.status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
            first = made.answer.get("first", made.answer.get("number"))
            last = made.answer.get("last", first)
            chat.numbers += range(first, last + 1)

    # -- changes -----------------------------------------------------------------------------------

    def _edit(self, chat: Chat) -> None:
        if path := self._message(chat):
            body = {"message": {"text": self._text()}}
            self.client.ask(self._server(), "PATCH", path, body=body)

    def _edit_if_match(self, chat: Chat) -> None:
        if (path := self._message(chat)) and (tag := self._tag(path)):
            body = {"message": {"text": self._text()}}
            self.client.ask(self._server(), "PATCH", path, body=body, if_match=tag)

    def _delete(self, chat: Chat) -> None:
        if path := self._message(chat):
            self.client.ask(self._server(), "DELETE", path)

    def _delete_if_match(self, chat: Chat) -> None:
        if (path := self._message(chat)) and (tag := self._tag(path)):
            self.client.ask(self._server(), "DELETE", path, if_match=tag)

    def _tag(self, path: str) -> str | None:
        """The entity tag of a message, as some process shows it, or has shown it once."""
        known = self.workload.first_tags.get(path)
        if known is not None and self.dice.random() < OLD_TAGS:
            return known
        read = self.client.ask(self._server(), "GET", path)
        if read.status != HTTPStatus.OK or read.etag is None:
            return None
        self.workload.first_tags.setdefault(path, read.etag)
        return read.etag

    def _replace(self, chat: Chat) -> None:
        """Use another chat from now on, and delete this one with its messages, at some moment."""
        self.workload.replace(chat, self.new_chat())
        self.client.ask(self._server(), "DELETE", chat.path, query={"cascade": "true"})
        for _ in range(3):
            self._read(chat)
            self._page(chat)
            self._search(chat)
            self._create(chat)

    # -- reads -------------------------------------------------------------------------------------

    def _read(self, chat: Chat) -> None:
        if path := self._message(chat):
            self.client.ask(self._server(), "GET", path)

    def _page(self, chat: Chat) -> None:
        with suppress(IndexError):
            after = max(0, self.dice.choice(chat.numbers) - 5)
            limit = self.dice.choice((1, 3, 10, 20))
            query = {"after": str(after), "limit": str(limit)}
            self.client.ask(self._server(), "GET", chat.messages, query=query)

    def _newest(self, chat: Chat) -> None:
        query = {"order": "desc", "limit": str(self.dice.choice((2, 10)))}
        self.client.ask(self._server(), "GET", chat.messages, query=query)

    def _named(self, chat: Chat) -> None:
        with suppress(IndexError):
            numbers = {self.dice.choice(chat.numbers[-30:]) for _ in range(5)}
            query = {"numbers": ",".join(map(str, sorted(numbers)))}
            self.client.ask(self._server(), "GET", chat.messages, query=query)

    def _search(self, chat: Chat) -> None:
        query = {"keyword": self.dice.choice(WORDS), "limit": "50"}
        if chat.numbers:
            query["after"] = str(max(0, chat.numbers[-1] - 60))
        self.client.ask(self._server(), "GET", chat.messages, query=query)

    def _count(self, chat: Chat) -> None:
        path = self.dice.choice((chat.path, self.workload.application))
        self.client.ask(self._server(), "GET", path)

    def _list_chats(self, chat: Chat) -> None:  # noqa: ARG002  # as the others
        self.client.ask(self._server(), "GET", f"{self.workload.application}/chats")

    def read_all_pages(self, chat: Chat, server: int) -> None:
        """Every page of a chat."""
        after: int | None = 0
        while after is not None:
            query = {"after": str(after), "limit": "200"}
            page = self.client.ask(server, "GET", chat.messages, query=query)
            if page.status != HTTPStatus.OK:
                return
            after = page.answer["next"]

    # -- choices -------------------------------------------------------------------------------------

    def _server(self) -> int:
        return self.dice.randrange(self.workload.servers)

    def _message(self, chat: Chat) -> str | None:
        """The path of a message, mostly of one of the newest."""
        numbers = chat.numbers
        if not numbers:
            return None
        few = numbers[-HOT_MESSAGES:] if self.dice.random() < 0.8 else numbers
        return f"{chat.messages}/{self.dice.choice(few)}"


class _Follower:
    """A client that follows chats, at one process after another, and sometimes leaves."""

    def __init__(self, workload: Workload, number: int) -> None:
        self.workload = workload
        self.client = workload.new_client(number)
        self.dice = random.Random(f"{workload.seed} {number}")

    def run(self) -> None:
        """Follow a chat, until it is deleted; then another one."""
        while not self.workload.is_stopping:
            chat = self.dice.choice(self.workload.chats)
            last: int | None = 0
            while last is not None and not self.workload.is_stopping:
                last = self._follow(chat, last)
                self.workload.wait(RETRY_SECONDS)

    def _follow(self, chat: Chat, last: int) -> int | None:
        """Follow for a while; returns the last number, or None if the chat is gone."""
        server = self.dice.randrange(self.workload.servers)
        until = time.monotonic() + self.dice.uniform(1, MAX_FOLLOWING_SECONDS)

        def is_over() -> bool:
            return self.workload.is_stopping or time.monotonic() > until

        return self.client.follow(server, f"{chat.messages}/stream", last, is_over)
