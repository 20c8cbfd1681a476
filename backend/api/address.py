"""Where the server listens. Light, so that `up` can ask without loading the server."""

import socket

from backend.errors import Failed
from backend.settings import variable

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to listen on; and to ask there


def check_free(host: str, port: int) -> None:
    """Raise Failed unless this process could listen there.

    The server's processes share a port, and would share it with a stranger, too, without a word.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise Failed(
            f"can't listen on {host} port {port}: {(error.strerror or str(error)).lower()}",
            f"choose another by --port or {variable('port')}",
        ) from None


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
