"""Ports that no other test takes, even while the server that uses one is down.

A test that kills a node of a cluster starts it again on its port, which is part of the cluster's
configuration. `free_port` does not keep a port while nobody listens there.
"""

import random
import socket
from itertools import islice

_PORTS = range(3_000, 10_000)
"""Below those of `free_port`, so that nothing else in the tests listens there."""
# Not the seeded generator: other processes may have the same seed, and would try the same ports.
_random = random.SystemRandom()


class ReservedPorts:
    """So many TCP ports of the loopback address, kept until `release` or the end of this process.

    The UDP port of the same number is the lock: one process at a time can bind it, the kernel releases it
    when that process ends, and the servers use only TCP.
    """

    def __init__(self, amount: int) -> None:
        self._locks: list[socket.socket] = []
        tried = _random.sample(_PORTS, len(_PORTS))
        self.numbers = list(islice(filter(self._reserve, tried), amount))
        assert len(self.numbers) == amount, "too few ports are free"

    def _reserve(self, port: int) -> bool:
        lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            lock.bind(("127.0.0.1", port))
            with socket.socket() as probe:  # a program that is not a test may listen there
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            return False
        self._locks.append(lock)
        return True

    def release(self) -> None:
        """Let others take them."""
        for lock in self._locks:
            lock.close()
