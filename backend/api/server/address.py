"""The address on which the server listens. Imports little: `instachat up` uses it without the server."""

import errno
import socket
from typing import Any

from backend.domain.errors import Failed
from backend.settings import environment_variable

BACKLOG = 2_048
# The address to connect to, for an address that means all interfaces.
WILDCARD_TO_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def check_free(host: str, port: int) -> None:
    """Raise Failed unless this process could listen on that address."""
    open_listeners(host, port, 1)[0].close()


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Open `count` sockets that listen on one address; the kernel distributes connections among them.

    Raises Failed if the address can't be used, for example because another program listens on it.
    """
    error: OSError | None = None
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _open_listeners(family, address, count)
            except OSError as failure:
                error = error or failure
                if failure.errno == errno.EADDRINUSE:
                    break  # not the name's next address: another server would get some requests
    except OSError as failure:
        error = failure
    reason = str((error and error.strerror) or error).lower()
    raise Failed(
        f"can't listen on {host} port {port}: {reason}",
        f"choose another by --port or {environment_variable('port')}",
    )


def _open_listeners(family: int, address: Any, count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if len(sockets) > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                address = sockets[0].getsockname()  # the port may have been 0
            listener.bind(address)
            listener.listen(BACKLOG)
            # The first socket binds exclusively, and only then allows the others to share.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets


def is_responding(host: str, port: int) -> bool:
    """Whether a server sends any response. A server that is still starting listens, but does not respond."""
    try:
        with socket.create_connection(
            (WILDCARD_TO_LOOPBACK.get(host, host), port), timeout=1
        ) as connection:
            connection.sendall(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            return bool(connection.recv(1))
    except OSError:
        return False


def url(host: str, port: int) -> str:
    """The address for a browser on this machine."""
    host = WILDCARD_TO_LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
