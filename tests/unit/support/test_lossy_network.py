"""A network that loses packets: what TCP delivers over it is complete, and packets were lost."""

import multiprocessing
import os
import socket
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.support.faults.lossy_network import LOCAL, LossyNetwork

SENT = bytes(range(256)) * 800


def exchange_over_link() -> tuple[bytes, int, int]:
    """In a process of its own: what a server sends back over a link, and how many packets were lost."""
    network = LossyNetwork(seed=1)
    lossy, other = network.new_link(), network.new_link()
    network.lose(lossy, 0.1)
    found = []
    with socket.create_server((LOCAL, 0)) as server:
        port = server.getsockname()[1]
        for link in (other, lossy):
            echo = threading.Thread(target=echo_once, args=(server, link))
            echo.start()
            with socket.create_connection((link, port)) as client:
                sending = threading.Thread(target=client.sendall, args=(SENT,))
                sending.start()
                received = b""
                while len(received) < len(SENT):
                    received += client.recv(1 << 16)
                sending.join()
            echo.join()
            found.append((received, network.lost_packets))
    (undisturbed, before), (received, after) = found
    assert undisturbed == received
    return received, before, after


def echo_once(server: socket.socket, link: str) -> None:
    """Send back what one client sends, which seems to be at the link's address."""
    connection, address = server.accept()
    assert address[0] == link
    with connection:
        while received := connection.recv(1 << 16):
            connection.sendall(received)


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"
)
def test_tcp_sends_again_what_a_link_has_lost() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        received, before, after = process.submit(exchange_over_link).result()
    assert received == SENT
    assert before == 0
    assert after > 0
