"""The clients of a history that speak HTTP: to any server that has these routes, at any address."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from tests.support.histories.exchanges import Exchange
from tests.support.histories.recorder import Answer, Client, Event, Recorder

TIMEOUT_SECONDS = 12.0  # longer than a server takes to answer, or to refuse, anything
POLL_SECONDS = 0.2  # in which a stream notices that it is over


class HttpClient(Client):
    """A client with a connection to each process of the server."""

    def __init__(self, recorder: Recorder, number: int, urls: Sequence[str]) -> None:
        """`urls` are those of the processes, such as `http://127.0.0.1:3000`."""
        super().__init__(recorder, number)
        self._urls = urls
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """See Client."""
        for server in list(self._connections):
            self._disconnect(server)

    def _send(self, asked: Exchange) -> Answer | None:
        named = {"If-Match": asked.if_match, "Idempotency-Key": asked.key}
        headers = {name: value for name, value in named.items() if value is not None}
        raw = None
        if asked.body is not None:
            raw = json.dumps(asked.body)
            headers["Content-Type"] = "application/json"
        if asked.server not in self._connections:
            self._connections[asked.server] = self._connect(asked.server)
        connection = self._connections[asked.server]
        try:
            connection.request(asked.method, _target(asked), raw, headers)
            response = connection.getresponse()
            content = response.read()
            decoded = json.loads(content) if content else None
            return Answer(response.status, response.headers["ETag"], decoded)
        except (OSError, http.client.HTTPException):
            self._disconnect(asked.server)
            return None

    def _follow(self, asked: Exchange, is_over: Callable[[], bool]) -> Iterator[Event]:
        connection = self._connect(asked.server)
        has_ended = threading.Event()
        watcher: threading.Thread | None = None
        try:
            connection.connect()
            arguments = connection.sock, is_over, has_ended
            watcher = threading.Thread(target=_break_off, args=arguments)
            watcher.start()
            connection.request("GET", _target(asked))
            response = connection.getresponse()
            asked.status = response.status
            if response.status == HTTPStatus.OK:
                yield from _events(response)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            has_ended.set()
            if watcher is not None:
                watcher.join()
            connection.close()

    def _connect(self, server: int) -> http.client.HTTPConnection:
        parts = urlsplit(self._urls[server])
        assert parts.hostname
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)

    def _disconnect(self, server: int) -> None:
        self._connections.pop(server).close()


def _target(asked: Exchange) -> str:
    return f"{asked.path}?{urlencode(asked.query)}" if asked.query else asked.path


def _break_off(
    connected: socket.socket, is_over: Callable[[], bool], has_ended: threading.Event
) -> None:
    """Break a connection when it is over: the thread that reads it waits for the server."""
    while not has_ended.wait(POLL_SECONDS):
        if is_over():
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            return


def _events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """The events of a response, as the standard has them."""
    name, data, id_ = "message", "", None
    while line := response.readline():
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif field == "id":
            id_ = int(value)
        elif not line.strip():
            if data:
                yield Event(name, id_, json.loads(data))
            name, data, id_ = "message", "", None
