"""The filter of a worker's socket, and what the kernel counts as dropped there."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Mapping

from mesh.clock import Instant
from mesh.link.drops import Drop
from mesh.link.fairness import Pair
from mesh.link.peers import Peers
from mesh.link.shedding import Shedding
from mesh.link.shield import ACCEPT_ALL, RAISE_AT, Instruction, Shield, program, shedding

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SO_MEMINFO, MEMINFO, MEMINFO_DROPS = 55, struct.Struct("9I"), 8

STRANGERS = (
    Drop.WRONG_TAG.value, Drop.UNKNOWN_PEER.value, Drop.UNKNOWN_EPOCH.value, Drop.NO_ROUTE.value
)  # fmt: skip


class Gate:
    """While a filter stands, what the kernel drops counts as ``wrong-tag``, or as ``relay-share``
    where it is against nobody else: it does not tell a full queue from a stranger, and during a
    flood nearly all are strangers."""

    def __init__(self, sock: socket.socket, peers: Peers) -> None:
        self._socket, self._peers = sock, peers
        self._shield = Shield()
        self._shedding = Shedding()
        self._stands_for: Drop | None = None
        self._strangers = self._filtered = self._before = 0

    def tick(self, now: Instant, *, idle: bool = False) -> None:
        """Once a second: raise the filter, or lower it. ``idle``: nothing came for a while, so
        nobody sends too much."""
        self._count()
        if idle:
            self._shedding = Shedding()
        strangers = self._counted()
        self._shield.look(strangers - self._strangers, len(self._peers.badges()), now)
        self._strangers = strangers
        self.refresh()

    def glance(self, now: Instant) -> None:
        """At any time: raise the filter at once if there are as many as a second may have."""
        if not self._shield.is_up and self._counted() - self._strangers >= RAISE_AT:
            self.tick(now)

    def shed(self, excess: Mapping[Pair, float], *, standing: bool) -> None:
        """Have more or less dropped of those whom we relay too much for, and of theirs others than
        before."""
        if self._shedding.look(excess, standing=standing):
            self.refresh()

    def refresh(self) -> None:
        """Make the filter what it should be, with the peers, tags and routes that we know now."""
        self._count()
        steps, reason = self._wanted()
        if reason is None:
            self._detach()
            return
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
        header = struct.pack("HP", len(steps), ctypes.addressof(code))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
        except OSError:
            self._detach()  # as slow as without; the one before does not know new tags
            return
        self._stands_for = reason

    def _detach(self) -> None:
        if self._stands_for is not None:
            self._stands_for = None
            self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def _wanted(self) -> tuple[list[Instruction], Drop | None]:
        """The filter, and what is dropped by it counts as."""
        peers, us = self._peers, self._peers.us
        shares = self._shedding.shares
        salt = int.from_bytes(os.urandom(4), "big")
        steps = shedding(shares, salt) if shares else []
        if self._shield.is_up and us is not None and (badges := peers.badges()):
            told = program(us, badges, peers.peers.keys(), peers.routes.keys())
            return steps + told, Drop.WRONG_TAG
        return steps + ACCEPT_ALL, Drop.RELAY_SHARE if shares else None

    def overruns(self) -> int:
        """Datagrams that a full queue cost, since the socket was made."""
        self._count()
        return self._before - self._filtered

    def _count(self) -> None:
        """Say whose fault it was that the kernel dropped more than when we last asked."""
        total = self._dropped()
        if self._stands_for is not None and total > self._before:
            self._filtered += total - self._before
            self._peers.drop(self._stands_for, total - self._before)
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
