"""The filter of a worker's socket, and what the kernel counts as dropped there."""

from __future__ import annotations

import ctypes
import socket
import struct

from mesh.clock import Instant
from mesh.link.drops import Drop
from mesh.link.peers import Peers
from mesh.link.shield import RAISE_AT, Shield, program

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SO_MEMINFO, MEMINFO, MEMINFO_DROPS = 55, struct.Struct("9I"), 8

STRANGERS = (
    Drop.WRONG_TAG.value, Drop.UNKNOWN_PEER.value, Drop.UNKNOWN_EPOCH.value, Drop.NO_ROUTE.value
)  # fmt: skip


class Gate:
    """While the filter stands, what the kernel drops counts as ``wrong-tag``: it does not tell a
    full queue from a stranger, and during a flood nearly all are strangers."""

    def __init__(self, sock: socket.socket, peers: Peers) -> None:
        self._socket, self._peers = sock, peers
        self._shield = Shield()
        self._stands = False
        self._strangers = self._filtered = self._before = 0

    def tick(self, now: Instant) -> None:
        """Once a second: raise the filter, or lower it."""
        self._count()
        strangers = self._counted()
        self._shield.look(strangers - self._strangers, len(self._peers.badges()), now)
        self._strangers = strangers
        self.refresh()

    def glance(self, now: Instant) -> None:
        """At any time: raise the filter at once if there are as many as a second may have."""
        if not self._shield.is_up and self._counted() - self._strangers >= RAISE_AT:
            self.tick(now)

    def refresh(self) -> None:
        """Make the filter what it should be, with the peers, tags and routes that we know now."""
        peers, us = self._peers, self._peers.us
        if not self._shield.is_up or us is None or not (badges := peers.badges()):
            if self._stands:
                self._count()
                self._stands = False
                self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            return
        self._count()
        told = program(us, badges, peers.peers.keys(), peers.routes.keys())
        steps = b"".join(struct.pack("HBBI", *step) for step in told)
        code = ctypes.create_string_buffer(steps, len(steps))
        header = struct.pack("HP", len(steps) // 8, ctypes.addressof(code))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
        except OSError:
            self._stands = False  # it stays as slow as it was
            return
        self._stands = True

    def overruns(self) -> int:
        """Datagrams that a full queue cost, since the socket was made."""
        self._count()
        return self._before - self._filtered

    def _count(self) -> None:
        """Say whose fault it was that the kernel dropped more than when we last asked."""
        total = self._dropped()
        if self._stands and total > self._before:
            self._filtered += total - self._before
            self._peers.drop(Drop.WRONG_TAG, total - self._before)
        self._before = total

    def _counted(self) -> int:
        drops = self._peers.drops
        return sum(drops[reason] for reason in STRANGERS)

    def _dropped(self) -> int:
        try:
            info = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
        except OSError:
            return 0  # before Linux 4.12
        return int(MEMINFO.unpack(info)[MEMINFO_DROPS]) if len(info) == MEMINFO.size else 0
