"""Probes of the engines, and their URLs, without a client library.

Every command probes the engines, and importing psycopg2 and redis-py for that would take longer than the
rest of the start.
"""

import os
import socket
import struct
import sys
from pathlib import Path
from urllib.parse import quote

from backend.embedded.home import POSTGRES

USER = DATABASE = "instachat"
"""PostgreSQL's role, and the database that it owns."""

TIMEOUT_SECONDS = 2.0
"""How long an engine may take to answer a probe."""

_POSTGRES_SOCKET = ".s.PGSQL.5432"
_VALKEY_SOCKET = "valkey.sock"
_SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107


def is_usable_socket_folder(folder: Path) -> bool:
    """Whether the kernel, URLs and PostgreSQL's client can all name a socket in that folder.

    The client reads `,` as a list of hosts, and SQLAlchemy reads `:` as a port.
    """
    try:
        length = len(str(folder / _POSTGRES_SOCKET).encode())
    except UnicodeEncodeError:
        return False
    return length <= _SOCKET_PATH_LIMIT and not set(",:") & set(str(folder))


def valkey_socket(folder: Path) -> Path:
    """The path of Valkey's socket."""
    return folder / _VALKEY_SOCKET


def database_url(folder: Path) -> str:
    """SQLAlchemy's URL of the private PostgreSQL."""
    return f"postgresql+psycopg2://{USER}@/{DATABASE}?host={quote(str(folder))}"


def redis_url(folder: Path) -> str:
    """redis-py's URL of the private Valkey."""
    return f"unix://{quote(str(valkey_socket(folder)))}?db=0"


def answers(engine: str, folder: Path) -> bool:
    """Whether the engine accepts commands, not only connections. Takes a millisecond or two."""
    try:
        if engine == POSTGRES:
            return _postgres_answers(folder)
        return ask_valkey(folder, "PING") == "+PONG"
    except OSError:
        return False


def ask_valkey(folder: Path, command: str) -> str:
    """The first line of Valkey's answer to a command; OSError if there is none."""
    with _connection(valkey_socket(folder)) as connection, connection.makefile("rb") as answer:
        connection.sendall(command.encode() + b"\r\n")
        return answer.readline().decode(errors="replace").rstrip()


def _postgres_answers(folder: Path) -> bool:
    """Whether a session can be opened, which fails during start, recovery and stop."""
    with _connection(folder / _POSTGRES_SOCKET) as connection, connection.makefile("rb") as answer:
        words = (b"user", USER.encode(), b"database", DATABASE.encode(), b"")
        start = struct.pack("!I", 3 << 16) + b"\0".join(words) + b"\0"
        connection.sendall(struct.pack("!I", len(start) + 4) + start)
        while len(head := answer.read(5)) == 5:
            kind, length = struct.unpack("!cI", head)
            answer.read(length - 4)
            if kind == b"Z":  # ready for a query
                connection.sendall(b"X" + struct.pack("!I", 4))
                return True
            if kind == b"E":
                return False
    return False


def _connection(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_SECONDS)
    try:
        connection.connect(os.fsencode(path))
    except BaseException:
        connection.close()
        raise
    return connection
