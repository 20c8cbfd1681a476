"""A TCP proxy in front of an engine, which breaks connections and redirects them."""

import random
import select
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

from tests.support.waiting import wait_until

Address = tuple[str, int] | Path  # a host and port, or a Unix socket
_CHUNK = 1 << 16


class Proxy:
    """Forwards each new connection to the current `target`. For one process; `close` ends it."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Its port on the loopback interface."""
        port: int = self._listener.getsockname()[1]
        return port

    def cut(self, dice: random.Random | None = None) -> int:
        """Break all connections, or each with a probability; returns how many."""
        with self._lock:
            pairs = [pair for pair in self._pairs if dice is None or dice.random() < 0.5]
        for pair in pairs:
            _break(pair)
        return len(pairs)

    def reset(self) -> None:
        """Break all connections as a lost peer does, by a reset. Returns when it is done."""
        with self._lock:
            pairs = list(self._pairs)
        for client, engine in pairs:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            _break(
                (engine,)
            )  # the forwarding thread closes the client, which the option above makes a reset
        wait_until(lambda: all(client.fileno() < 0 for client, _ in pairs))

    def lead_to(self, target: Address) -> None:
        """Forward to another target from now on, and break the existing connections."""
        self.target = target
        self.cut()

    def close(self) -> None:
        """Accept no more connections, and break the existing ones."""
        self._listener.close()
        self.cut()

    def _pass(self, data: bytes, *, from_client: bool) -> None:
        """Called in the connection's thread before it forwards data."""

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=[client], daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        try:
            engine = _connect(self.target)
        except OSError:
            client.close()
            return
        pair = client, engine
        other = {client: engine, engine: client}
        for end in pair:
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.add(pair)
        with suppress(OSError, ValueError):  # broken, on purpose or not
            while True:
                for ready in select.select(pair, (), ())[0]:
                    data = ready.recv(_CHUNK)
                    if not data:
                        raise OSError
                    self._pass(data, from_client=ready is client)
                    other[ready].sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        for end in reversed(pair):
            end.close()


def _connect(target: Address) -> socket.socket:
    if isinstance(target, Path):
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(str(target))
        return engine
    return socket.create_connection(target)


def _break(ends: tuple[socket.socket, ...]) -> None:
    """Wakes the thread that forwards; it closes both ends."""
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
