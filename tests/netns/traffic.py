"""Traffic between pods, and ears on their wires: what the tests of the data path share."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable

from bench.nodes import Node, inside, run_in

MARKER = b"the-marker-that-nobody-may-read!"


def transfer(source: Node, target: Node, octets: int, *, within: float = 30.0) -> None:
    """Send so many octets over TCP from pod to pod; what arrives must be what was sent."""
    data = (MARKER + os.urandom(1 << 16)) * (octets // (1 << 16) + 1)
    listener = inside(target.pod, lambda: socket.create_server((target.address, 5001)))
    sender = inside(source.pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with listener, sender:
        for sock in (listener, sender):
            sock.settimeout(within)
        sender.connect((target.address, 5001))
        taker, _ = listener.accept()
        taker.settimeout(within)
        digest = hashlib.sha256()

        def take() -> None:
            while piece := taker.recv(1 << 20):
                digest.update(piece)

        with taker:
            thread = threading.Thread(target=take)
            thread.start()
            sender.sendall(data)
            sender.shutdown(socket.SHUT_WR)
            thread.join(within)
            assert not thread.is_alive(), "the transfer did not end"
    assert digest.digest() == hashlib.sha256(data).digest()


def ping(source: Node, target: Node, *flags: str, check: bool = True) -> str:
    return run_in(
        source.pod, "ping", "-c", "3", "-i", "0.05", "-W", "5", *flags, target.address, check=check
    )


def listen_to(namespace: str, device: str) -> socket.socket:
    """A socket that is given every packet of a device, its receive buffer large."""

    def make() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
        sock.bind((device, 0))
        return sock

    return inside(namespace, make)


def drain(sock: socket.socket) -> list[bytes]:
    """What the socket has been given so far."""
    packets = []
    sock.setblocking(False)
    while select.select([sock], [], [], 0.2)[0]:
        packets.append(sock.recv(1 << 17))
    return packets


def eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
