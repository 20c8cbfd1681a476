"""A TCP proxy in front of an engine, which breaks connections and redirects them."""

import random
import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.support.waiting import wait_until

Address = tuple[str, int] | Path  # a host and port, or a Unix socket
_CHUNK = 1 << 16
_POLL_SECONDS = 0.02  # while something is held or late


class Proxy:
    """Forwards each new connection to the current `target`. For one process; `close` ends it.

    It can hold what is sent, in both directions or in one, as a network does that drops packets: what is held
    arrives late, in order, if the connection still exists then.
    """

    def __init__(self, target: Address, host: str = "127.0.0.1") -> None:
        """`host` is the address at which it takes connections."""
        self.target = target
        self.delay_seconds = 0.0
        """How late everything arrives, in each direction."""
        self._held: frozenset[bool] = frozenset()  # True: what clients send
        self._listener = socket.create_server((host, 0))
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """The port at which it takes connections."""
        port: int = self._listener.getsockname()[1]
        return port

    def cut(self, dice: random.Random | None = None) -> int:
        """Break all connections, or each with a probability; returns how many."""
        pairs = [pair for pair in self._open_pairs() if dice is None or dice.random() < 0.5]
        for pair in pairs:
            _end(pair)
        return len(pairs)

    def reset(self) -> None:
        """Break all connections as a lost peer does, by a reset. Returns when it is done."""
        pairs = self._open_pairs()
        for pair in pairs:
            # The forwarding thread closes the client, which this option makes a reset.
            _reset_when_closed(pair.client)
            _end(pair, keep_client=True)
        wait_until(lambda: all(pair.client.fileno() < 0 for pair in pairs))

    def hold(self, *, from_clients: bool = True, from_engine: bool = True) -> None:
        """Deliver nothing in this direction, or in both, until `deliver`; also on new connections."""
        ends = {True: from_clients, False: from_engine}
        self._held = frozenset(from_client for from_client, is_held in ends.items() if is_held)

    def deliver(self) -> None:
        """Deliver what was held, and everything from now on."""
        self._held = frozenset()

    def forget(self) -> int:
        """Close the engine's end of all connections, and say nothing to the clients, which see no end.

        So does a firewall that forgets its connections, or a host that vanishes. Returns how many.
        """
        pairs = self._open_pairs()
        for pair in pairs:
            pair.is_forgotten = True
            _shut_down(pair.engine)
        return len(pairs)

    def reset_forgotten(self) -> None:
        """Reset the clients' ends of forgotten connections, as a kernel does that has waited long enough."""
        for pair in self._open_pairs():
            if pair.is_forgotten:
                _reset_when_closed(pair.client)
                pair.is_ended = True

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

    def _open_pairs(self) -> "list[_Pair]":
        with self._lock:
            return list(self._pairs)

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
        pair = _Pair(client, engine)
        for end in (client, engine):
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.add(pair)
        with suppress(OSError, ValueError):  # broken, on purpose or not
            while True:
                self._forward_once(pair)
        engine.close()
        while pair.is_forgotten and not (pair.is_ended or _is_closed(client)):
            time.sleep(_POLL_SECONDS)
        with self._lock:
            self._pairs.discard(pair)
        client.close()

    def _forward_once(self, pair: "_Pair") -> None:
        """Receive what has come, and send what is due; waits for either. Raises OSError at the end."""
        if pair.is_ended or pair.is_forgotten:
            raise OSError
        ends = {True: pair.client, False: pair.engine}
        open_ends = [end for from_client, end in ends.items() if from_client not in self._held]
        is_plain = len(open_ends) == len(ends) and not pair.late and not self.delay_seconds
        ready = select.select(open_ends, (), (), None if is_plain else _POLL_SECONDS)[0]
        for from_client, end in ends.items():
            if end not in ready or from_client in self._held:
                continue
            data = end.recv(_CHUNK)
            if not data:
                raise OSError
            pair.late.append(_Late(time.monotonic() + self.delay_seconds, from_client, data))
        while pair.late and pair.late[0].due <= time.monotonic():
            late = pair.late.popleft()
            self._pass(late.data, from_client=late.from_client)
            ends[not late.from_client].sendall(late.data)


@dataclass(eq=False)
class _Pair:
    """A connection of a client, and the one to the engine that was made for it."""

    client: socket.socket
    engine: socket.socket
    is_ended: bool = False
    is_forgotten: bool = False
    late: "deque[_Late]" = field(default_factory=deque)


class _Late(NamedTuple):
    """Data that are delivered at a time of the monotonic clock."""

    due: float
    from_client: bool
    data: bytes


class CommitLosingProxy(Proxy):
    """A proxy in front of PostgreSQL that, when it is told to, loses the answer to a COMMIT."""

    def __init__(self, target: Address) -> None:
        super().__init__(target)
        self._statement: bytes | None = None
        self._in_transaction: int | None = None  # the thread of the connection
        self._committed: int | None = None

    def lose_commit_of(self, statement: bytes) -> None:
        """Lose the answer to the COMMIT after this statement. PostgreSQL has committed by then."""
        self._statement = statement

    def _pass(self, data: bytes, *, from_client: bool) -> None:
        connection = threading.get_ident()
        if from_client and self._statement and self._statement in data:
            self._statement, self._in_transaction = None, connection
        elif from_client and self._in_transaction == connection and b"COMMIT" in data:
            self._in_transaction, self._committed = None, connection
        elif not from_client and self._committed == connection:
            self._committed = None
            raise OSError("the connection is lost")


def _connect(target: Address) -> socket.socket:
    if isinstance(target, Path):
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(str(target))
        return engine
    return socket.create_connection(target)


def _end(pair: _Pair, *, keep_client: bool = False) -> None:
    """Wake the thread that forwards; it closes both ends."""
    pair.is_ended = True
    _shut_down(pair.engine)
    if not keep_client:
        _shut_down(pair.client)


def _shut_down(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _reset_when_closed(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _is_closed(end: socket.socket) -> bool:
    """Whether the other side has closed a connection; what it sends is dropped."""
    try:
        return bool(select.select([end], (), (), 0)[0]) and not end.recv(_CHUNK)
    except (OSError, ValueError):
        return True
