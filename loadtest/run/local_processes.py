"""Finds the processes of this machine that serve an address."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psutil

from loadtest.errors import Unusable
from loadtest.run.faults import FindProcesses, Target

COMMANDS = {Target.SERVER: "serve", Target.WORKER: "worker"}
"""The commands of `instachat` by which the parts run."""


def server_processes(host: str) -> FindProcesses:
    """Finds the server at an address of this machine, and the worker that `instachat up` started with it.

    Raises Unusable if no process of this machine listens there, or if that can't be seen.
    """
    server = listening_process(host)
    if server is None:
        raise Unusable(f"--profile-server: no process of this machine is seen to listen at {host}")
    while (starter := server.parent()) and _is_command(starter, Target.SERVER):
        server = starter
    found, parent = server, server.parent()
    siblings: Iterable[psutil.Process] = parent.children() if parent else ()

    def find(target: Target) -> list[psutil.Process]:
        if target is Target.SERVER:
            return [found]
        return [other for other in siblings if _is_command(other, target)]

    return find


def listening_process(address: str) -> psutil.Process | None:
    """The first process of this machine that listens at a URL; None if there is none that can be seen."""
    url = urlsplit(address)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(url.hostname, port)}
    except OSError:
        return None
    own = {address.address for each in psutil.net_if_addrs().values() for address in each}
    if not addresses & own:
        return None
    pids = [c.pid for c in _connections() if c.status == psutil.CONN_LISTEN and _port(c) == port]
    known = [pid for pid in pids if pid is not None]
    return psutil.Process(min(known)) if known else None


def _is_command(process: psutil.Process, target: Target) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return COMMANDS.get(target) in words and any("instachat" in word for word in words)


def _connections() -> Iterator[Any]:
    """The connections of this machine's processes, as far as this user may see them, with their `pid`."""
    try:
        yield from psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows all of them to root only
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                for connection in process.net_connections("tcp"):
                    yield SimpleNamespace(**connection._asdict(), pid=process.pid)


def _port(connection: Any) -> int | None:
    return connection.laddr.port if connection.laddr else None
