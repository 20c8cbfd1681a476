"""A network in which packets are lost, below TCP, so that the kernel sends them again.

A process moves into a network namespace of its own. There, each packet that is sent to a link comes back with
its source and its destination swapped: it arrives at a server on LOCAL, which takes it for one of a client at
the link's address, and so do the answers. Both checksums stay right. Between the two, packets are dropped at
random, in either direction. Needs root and /dev/net/tun.
"""

import ctypes
import fcntl
import multiprocessing
import os
import random
import socket
import struct

LOCAL = "10.99.0.1"
"""Servers that are to be reached by a link listen there."""
FIRST_LINK, LAST_LINK = 2, 254
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x400454CA, 0x8914, 0x8916, 0x891C
_IFF_TUN_WITHOUT_INFO = 0x0001 | 0x1000
_IFF_UP = 0x0001
_DEVICE = b"lossy"
_IPV4 = 4


class LossyNetwork:
    """The links of this process and its children. Make it before any thread."""

    def __init__(self, seed: int) -> None:
        _enter_namespace()
        device = _open_device()
        context = multiprocessing.get_context("fork")
        self._loss = context.Array("d", LAST_LINK + 1, lock=False)
        self._lost = context.Value("L", 0, lock=False)
        forward = context.Process(target=self._forward, args=(device, seed), daemon=True)
        forward.start()
        os.close(device)
        self._next = FIRST_LINK

    @property
    def lost_packets(self) -> int:
        """How many were dropped."""
        return int(self._lost.value)

    def new_link(self) -> str:
        """The address of another link, to be connected to in the place of LOCAL. It loses nothing yet."""
        address = f"10.99.0.{self._next}"
        assert self._next <= LAST_LINK
        self._next += 1
        return address

    def lose(self, link: str, share: float) -> None:
        """From now on, drop this share of a link's packets."""
        self._loss[socket.inet_aton(link)[3]] = share

    def _forward(self, device: int, seed: int) -> None:
        """Runs in a process of its own, so that nothing else delays it."""
        dice = random.Random(seed)
        while True:
            packet = os.read(device, 1 << 16)
            if packet[0] >> 4 != _IPV4 or not FIRST_LINK <= packet[19] <= LAST_LINK:
                continue
            if dice.random() < self._loss[packet[19]]:
                self._lost.value += 1
                continue
            os.write(device, packet[:12] + packet[16:20] + packet[12:16] + packet[20:])


def _enter_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"a network namespace needs root: {os.strerror(error)}")
    _configure(b"lo", _SIOCSIFFLAGS, struct.pack("H22x", _IFF_UP))


def _open_device() -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE, _IFF_TUN_WITHOUT_INFO))
    _configure(_DEVICE, _SIOCSIFADDR, _socket_address(LOCAL))
    _configure(_DEVICE, _SIOCSIFNETMASK, _socket_address("255.255.255.0"))
    _configure(_DEVICE, _SIOCSIFFLAGS, struct.pack("H22x", _IFF_UP))
    return device


def _configure(device: bytes, request: int, value: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, request, struct.pack("16s", device) + value)


def _socket_address(address: str) -> bytes:
    return struct.pack("=HH4s16x", socket.AF_INET, 0, socket.inet_aton(address))
