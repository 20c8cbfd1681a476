"""A client of event streams that follows the standard."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from tests.support.waiting import PATIENCE_SECONDS, wait_until


class StreamEvent(NamedTuple):
    """An event: its type, its data decoded, and its id if it has one."""

    name: str
    data: Any
    id: int | None


class EventStreamClient:
    """One connection to a stream."""

    def __init__(self, port: int, path: str, *, query: str = "", last: int | None = None) -> None:
        """`path` is a chat's, `last` the last id that the client has."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self._connection.connect()
        self._socket: socket.socket = self._connection.sock
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        try:
            self._connection.request("GET", f"{path}/messages/stream{query}", headers=headers)
            self._response = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self.comments = 0

    def __enter__(self) -> "EventStreamClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def break_off(self) -> None:
        """Break the connection, in any thread; the one that reads learns of it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave."""
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[StreamEvent]:
        """The events, until the server ends the stream. Raises if the connection breaks."""
        name, data, id_ = "message", "", None
        while line := self._response.readline():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data += value
            elif field == "id":
                id_ = int(value)
            elif field == "":
                if line != b"\n":
                    self.comments += 1
                elif data:
                    yield StreamEvent(name, json.loads(data), id_)
                name, data, id_ = ("message", "", None) if line == b"\n" else (name, data, id_)

    def take(self, count: int) -> list[StreamEvent]:
        """The next events."""
        events = iter(self)
        return [next(events) for _ in range(count)]

    def take_numbers(self, last: int) -> list[int]:
        """The numbers of the events of numbers, through that one."""
        found: list[int] = []
        for event in self:
            if event.id is not None and event.name != "start":
                found.append(event.id)
            if found and found[-1] >= last:
                break
        return found


class ReconnectingClient:
    """Follows a chat from its beginning in a thread, and connects again as the standard says."""

    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.numbers: list[int] = []
        """What it was told of, in the order of arrival."""
        self.texts: dict[int, str] = {}
        self.connections = 0
        self._path = path
        self._stopping = threading.Event()
        self._client: EventStreamClient | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, number: int) -> None:
        """Wait until it was told of that number."""
        wait_until(lambda: self.numbers and self.numbers[-1] >= number)

    def disconnect(self) -> None:
        """Break the connection."""
        if self._client:
            self._client.break_off()

    def stop(self) -> None:
        """Leave. Idempotent."""
        self._stopping.set()
        self.disconnect()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        last = 0
        while not self._stopping.is_set():
            try:
                last = self._follow(last)
            except (OSError, http.client.HTTPException):
                last = self.numbers[-1] if self.numbers else 0
            self._stopping.wait(0.05)

    def _follow(self, last: int) -> int:
        """Follow until the connection ends; returns the last id."""
        with EventStreamClient(self.port, self._path, last=last) as client:
            self._client = client
            self.connections += client.status == 200
            for event in client if client.status == 200 else ():
                if event.id is not None:
                    last = event.id
                    self.numbers.append(event.id)
                    if event.name == "message":
                        self.texts[event.id] = event.data["text"]
        return last
