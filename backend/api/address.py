"""Where the server listens. Light, so that `up` can ask without loading the server."""

import socket

from backend.errors import Failed
from backend.settings import variable

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to listen on; and to ask there


def check_free(host: str, port: int) -> None:
    """Raise Failed unless this process could listen there."""
    bound(host, port, 1)[0].close()


def bound(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets at one address, ready to listen; the kernel shares connections out among them.

    Raises Failed if that can't be: also if a stranger is there that shares its port, which would get some of
    the connections without a word.
    """
    sockets: list[socket.socket] = []
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        for _ in range(count):
            sockets.append(socket.socket(family, socket.SOCK_STREAM))
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sockets[-1].bind(address)
    except OSError as error:
        for one in sockets:
            one.close()
        raise Failed(
            f"can't listen on {host} port {port}: {(error.strerror or str(error)).lower()}",
            f"choose another by --port or {variable('port')}",
        ) from None
    return sockets


def listens(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((EVERYWHERE.get(host, host), port), timeout=1).close()
    except OSError:
        return False
    return True


def url(host: str, port: int) -> str:
    """The address for a browser on this machine."""
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
