"""Records what clients ask and are answered, whichever way they reach the server."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

from tests.support.histories.exchanges import Exchange, StreamedEvent


class Answer(NamedTuple):
    """A whole answer, decoded."""

    status: int
    etag: str | None
    content: Any


class Event(NamedTuple):
    """An event of a stream."""

    name: str
    id: int | None
    data: Any


class Recorder:
    """The exchanges of all clients. Thread-safe."""

    def __init__(self) -> None:
        self.history: list[Exchange] = []
        self._lock = threading.Lock()

    def add(self, exchange: Exchange) -> None:
        """Record an exchange that has ended."""
        with self._lock:
            self.history.append(exchange)


class Client(ABC):
    """One client, for one thread, with one request at a time, to any process of the server."""

    def __init__(self, recorder: Recorder, number: int) -> None:
        self.number = number
        self._recorder = recorder

    def ask(
        self,
        server: int,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Any = None,
        if_match: str | None = None,
        key: str | None = None,
    ) -> Exchange:
        """Send a request to a process. Returns once it is answered, or can't be any more."""
        asked = Exchange(
            self.number,
            server,
            method,
            path,
            time.monotonic(),
            query or {},
            body,
            if_match,
            key,
        )
        answer = self._send(asked)
        if answer is not None:
            asked.answered = time.monotonic()
            asked.status, asked.etag, asked.answer = answer
        self._recorder.add(asked)
        return asked

    def follow(self, server: int, path: str, after: int, is_over: Callable[[], bool]) -> int | None:
        """Follow a chat's stream after a number, until it ends or `is_over`, which any thread may call.

        Returns the last number that it told of; None if the chat is gone.
        """
        query, last = {"after": str(after)}, after
        asked = Exchange(self.number, server, "GET", path, time.monotonic(), query)
        for event in self._follow(asked, is_over):
            asked.events.append(StreamedEvent(time.monotonic(), *event))
            last = event.id if event.id is not None else last
        if asked.status is not None:
            asked.answered = time.monotonic()
        self._recorder.add(asked)
        has_ended = any(event.name == "end" for event in asked.events)
        return None if has_ended or asked.status == HTTPStatus.NOT_FOUND else last

    def close(self) -> None:  # noqa: B027  # there may be nothing to close
        """Close the connections."""

    @abstractmethod
    def _send(self, asked: Exchange) -> Answer | None:
        """Send a request; None if the answer was lost."""

    @abstractmethod
    def _follow(self, asked: Exchange, is_over: Callable[[], bool]) -> Iterator[Event]:
        """The events of a stream, whose status is set first; ends also if the connection is lost."""
