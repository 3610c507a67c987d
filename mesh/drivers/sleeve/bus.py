"""A worker's sockets to the other workers of its host."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from mesh.errors import MalformedMessageError
from mesh.link.drops import Drop
from mesh.link.peers import Peers
from mesh.wire import bus

MAX_PACKET = 160 * 1024
"""Octets of the largest message, a super-frame with room."""

MAX_READ = 64
"""Messages read before frames have their turn again."""


class Bus:
    """``fds``: a SOCK_SEQPACKET socket to each other lane, in the order of lanes."""

    def __init__(self, peers: Peers, lane: int, fds: Sequence[int]) -> None:
        self._peers = peers
        others = (n for n in range(len(fds) + 1) if n != lane)
        self._sockets = {n: socket.socket(fileno=fd) for n, fd in zip(others, fds, strict=True)}
        for sock in self._sockets.values():
            sock.setblocking(False)

    def filenos(self) -> list[int]:
        return [sock.fileno() for sock in self._sockets.values()]

    def say(self, lane: int, message: bus.BusMessage) -> None:
        """One that does not read is one that frames wait for, too: what it misses is counted."""
        try:
            self._sockets[lane].send(bus.encode(message))
        except OSError:
            self._peers.drop(Drop.LANE_FULL)

    def tell_all(self, message: bus.BusMessage) -> None:
        for lane in self._sockets:
            self.say(lane, message)

    def messages(self, fd: int) -> Iterator[bus.BusMessage]:
        """What waits on one of the sockets. Raises ConnectionResetError: a lane is gone, and the
        daemon is about to end the others."""
        sock = next(s for s in self._sockets.values() if s.fileno() == fd)
        for _ in range(MAX_READ):
            try:
                packet = sock.recv(MAX_PACKET)
            except BlockingIOError:
                return
            if not packet:
                raise ConnectionResetError("lane gone")
            try:
                yield bus.decode(packet)
            except MalformedMessageError:
                self._peers.drop(Drop.MALFORMED)
