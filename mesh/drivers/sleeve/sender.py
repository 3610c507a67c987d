"""Out: frames into records, records into datagrams, one AEAD call and one system call each.

A record is sealed straight into the payload array and its datagrams' headers are written by
strided slices, so that the cost does not grow with the number of datagrams.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable

from mesh.drivers.sleeve.abi import (
    MAX_GSO_OCTETS,
    MAX_GSO_SEGMENTS,
    MSG_DONTWAIT,
    SOL_UDP,
    UDP_SEGMENT,
    IoVec,
    MsgHdr,
    Slots,
    sendmsg,
    socket_address,
)
from mesh.link.drops import Drop
from mesh.link.peers import Neighbour, Peer, Peers
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DATA,
    HEADER_SIZE,
    HOP_LIMIT,
    MAX_DATAGRAMS,
    PLAIN,
    PREFIX,
    TAG_SIZE,
    nonce,
)

_ROOM = 140_000
"""Octets of the largest sealed record: a super-frame behind an almost full record."""

_PAYLOAD_SIZES = 8
"""Slot layouts kept: paths have few different segments."""


class Sender:
    """One UDP socket's sending side. ``too_big(neighbour, size)`` is told of EMSGSIZE."""

    def __init__(
        self,
        peers: Peers,
        fd: int,
        family: int,
        too_big: Callable[[ShortID, int], None],
    ) -> None:
        self._peers, self._fd, self._family, self._too_big = peers, fd, family, too_big
        self._layouts: dict[int, Slots] = {}
        self._addresses: dict[tuple[str, int], bytes] = {}
        self._control = ctypes.create_string_buffer(24)
        self._name = ctypes.create_string_buffer(28)
        self._msg = MsgHdr()
        self._msg.name = ctypes.addressof(self._name)
        self._msg_address = ctypes.addressof(self._msg)
        self._current: Neighbour | None = None
        self.records = self.datagrams = 0

    def record(self, peer: Peer, frames: memoryview, kind: int = DATA) -> None:
        """Seal frames (a record's payload) for a peer and send them on their way."""
        peers = self._peers
        path = peers.path(peer.short_id)
        if path is None:
            peers.drop(Drop.NO_ROUTE)
            return
        hop, via, segment = path
        slots = self._slots(segment - HEADER_SIZE)
        if peers.encrypted:
            epoch = peer.active
            if epoch is None:
                peers.drop(Drop.NO_KEY)
                return
            epoch.seq = seq = epoch.seq + 1
            size = len(frames) + TAG_SIZE
            epoch.aead.encrypt_into(
                nonce(seq),
                frames,
                peers.prefix(kind, peer, epoch, hops=0),
                slots.payload_view[:size],
            )
            prefix = peers.prefix(kind, peer, epoch, hops=HOP_LIMIT)
        else:
            peer.plain_seq = seq = peer.plain_seq + 1
            size = len(frames)
            slots.payload_view[:size] = frames
            kind = PLAIN if kind == DATA else kind
            prefix = peers.prefix(kind, peer, None, hops=HOP_LIMIT)
        total = (size + slots.payload - 1) // slots.payload
        if total > MAX_DATAGRAMS:
            peers.drop(Drop.TOO_BIG)
            return
        self._write_headers(slots, prefix + seq.to_bytes(8, "big"), total)
        peer.tx_octets += size
        self.records += 1
        tail = size - (total - 1) * slots.payload
        self.send(slots, 0, total, tail, hop, via)

    def send(
        self, slots: Slots, first: int, total: int, tail: int, hop: ShortID, via: Neighbour
    ) -> None:
        """Send ``total`` slots from ``first`` on, the last with ``tail`` octets of payload."""
        self._aim(via)
        msg, payload = self._msg, slots.payload
        segment = payload + HEADER_SIZE
        most = min(MAX_GSO_SEGMENTS, MAX_GSO_OCTETS // segment)
        last: IoVec = slots.iov[2 * (first + total - 1) + 1]
        last.len = tail
        struct.pack_into("=QiiH6x", self._control, 0, 18, SOL_UDP, UDP_SEGMENT, segment)
        for at in range(first, first + total, most):
            count = min(most, first + total - at)
            msg.iov = slots.iov_address + 32 * at
            msg.iovlen = 2 * count
            if count > 1:
                msg.control, msg.controllen = ctypes.addressof(self._control), 24
            else:
                msg.control, msg.controllen = None, 0
            self.datagrams += count
            if sendmsg(self._fd, self._msg_address, MSG_DONTWAIT) < 0:
                self._failed(ctypes.get_errno(), hop, segment if count > 1 else HEADER_SIZE + tail)
        last.len = payload

    def datagram(self, data: bytes, hop: ShortID, via: Neighbour) -> None:
        """Send one datagram that stands whole in memory."""
        self._aim(via)
        buffer = ctypes.create_string_buffer(data, len(data))
        iov = IoVec(ctypes.addressof(buffer), len(data))
        msg = self._msg
        msg.iov, msg.iovlen = ctypes.addressof(iov), 1
        msg.control, msg.controllen = None, 0
        self.datagrams += 1
        if sendmsg(self._fd, self._msg_address, MSG_DONTWAIT) < 0:
            self._failed(ctypes.get_errno(), hop, len(data))

    def _write_headers(self, slots: Slots, fixed: bytes, total: int) -> None:
        headers, end = slots.headers, total * HEADER_SIZE
        for n, octet in enumerate(fixed):
            headers[n:end:HEADER_SIZE] = bytes((octet,)) * total
        headers[PREFIX.size + 9 : end : HEADER_SIZE] = bytes((total,)) * total

    def _slots(self, payload: int) -> Slots:
        slots = self._layouts.get(payload)
        if slots is None:
            if len(self._layouts) >= _PAYLOAD_SIZES:
                del self._layouts[next(iter(self._layouts))]
            count = min(MAX_DATAGRAMS, _ROOM // payload + 2)
            slots = self._layouts[payload] = Slots(count, payload, _ROOM)
            for n in range(count):
                slots.headers[HEADER_SIZE * n + PREFIX.size + 8] = n
        return slots

    def _aim(self, via: Neighbour) -> None:
        if via is self._current:
            return
        key = (via.endpoint.host, via.endpoint.port)
        address = self._addresses.get(key)
        if address is None:
            if len(self._addresses) > 4096:
                self._addresses.clear()
            address = self._addresses[key] = socket_address(via.endpoint, self._family)
        self._name.raw = address.ljust(28, b"\0")
        self._msg.namelen = len(address)
        self._current = via

    def _failed(self, error: int, hop: ShortID, size: int) -> None:
        if error == errno.EMSGSIZE:
            self._peers.drop(Drop.TOO_BIG)
            self._too_big(hop, size)
        elif error in (errno.EAGAIN, errno.ENOBUFS):
            self._peers.drop(Drop.UNDERLAY_FULL)
        else:
            self._peers.drop(Drop.UNDERLAY_ERROR)
