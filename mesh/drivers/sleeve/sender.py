"""Out: records into datagrams, one AEAD call and one system call each.

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
    NAME_SIZE,
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
from mesh.link.records import next_number, seal
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DATA,
    HEADER_SIZE,
    HOP_LIMIT,
    INDEX_AT,
    MAX_DATAGRAMS,
    MAX_PLAIN,
    PLAIN,
    TAG_SIZE,
    nonce,
)

MAX_LAYOUTS = 8
"""Slot layouts kept: paths have few different segments."""

MAX_ADDRESSES = 4096

_ALONE = bytes((0, 1, 0, 0))
"""Index, total and reserved octets of a record in one datagram."""


class Sender:
    """One UDP socket's sending side. ``too_big(neighbour, size)`` is told of EMSGSIZE."""

    def __init__(
        self, peers: Peers, fd: int, family: int, too_big: Callable[[ShortID, int], None]
    ) -> None:
        self._peers, self._fd, self._family, self._too_big = peers, fd, family, too_big
        self._layouts: dict[int, Slots] = {}
        self._addresses: dict[tuple[str, int], bytes] = {}
        self._control = ctypes.create_string_buffer(24)
        self._name = ctypes.create_string_buffer(NAME_SIZE)
        self._msg = MsgHdr()
        self._msg.name = ctypes.addressof(self._name)
        self._msg_address = ctypes.addressof(self._msg)
        self._aimed_at: bytes | None = None

    def record(self, peer: Peer, frames: memoryview) -> None:
        """Seal frames (a record's payload) for a peer and send them on their way."""
        peers = self._peers
        path = peers.path(peer.short_id)
        epoch = peer.active if peers.encrypted else None
        if path is None or (epoch is None and peers.encrypted):
            peers.drop(Drop.NO_ROUTE if path is None else Drop.NO_KEY)
            return
        hop, via, segment = path
        slots = self._slots(segment - HEADER_SIZE)
        size = len(frames) + (TAG_SIZE if epoch is not None else 0)
        total = (size + slots.payload - 1) // slots.payload
        if total > slots.count:
            peers.drop(Drop.TOO_BIG)
            return
        seq = next_number(peer, epoch)
        kind = PLAIN if epoch is None else DATA
        if epoch is None:
            slots.payload_view[:size] = frames
        else:
            aad = peers.prefix(kind, peer, epoch, hops=0)
            epoch.aead.encrypt_into(nonce(seq), frames, aad, slots.payload_view[:size])
        prefix = peers.prefix(kind, peer, epoch, hops=HOP_LIMIT)
        _write_headers(slots, prefix + seq.to_bytes(8, "big"), total)
        peer.tx_octets += len(frames)
        self.slots(slots, 0, total, size - (total - 1) * slots.payload, hop, via)

    def slots(
        self, slots: Slots, first: int, total: int, tail: int, hop: ShortID, via: Neighbour
    ) -> None:
        """Send ``total`` slots from ``first`` on, the last with ``tail`` octets of payload."""
        if not self._aim(via):
            return
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
            if sendmsg(self._fd, self._msg_address, MSG_DONTWAIT) < 0:
                alone = count == 1 and at == first + total - 1
                self._failed(ctypes.get_errno(), hop, HEADER_SIZE + tail if alone else segment)
        last.len = payload

    def small(self, kind: int, peer: Peer, body: bytes, *, via: Neighbour | None = None) -> None:
        """Send a record of one datagram: by its route, or straight ``via`` an address, one hop."""
        peers = self._peers
        path = peers.path(peer.short_id) if via is None else (peer.short_id, via, 0)
        epoch = peer.active if peers.encrypted else None
        if path is None or (epoch is None and peers.encrypted):
            peers.drop(Drop.NO_ROUTE if path is None else Drop.NO_KEY)
            return
        seq = next_number(peer, epoch)
        sealed = seal(epoch, seq, peers.prefix(kind, peer, epoch, hops=0), body)
        prefix = peers.prefix(kind, peer, epoch, hops=HOP_LIMIT if via is None else 1)
        self.datagram(prefix + seq.to_bytes(8, "big") + _ALONE + sealed, path[0], path[1])

    def datagram(self, data: bytes, hop: ShortID, via: Neighbour) -> None:
        """Send one datagram that stands whole in memory."""
        if not self._aim(via):
            return
        buffer = ctypes.create_string_buffer(data, len(data))
        iov = IoVec(ctypes.addressof(buffer), len(data))
        msg = self._msg
        msg.iov, msg.iovlen = ctypes.addressof(iov), 1
        msg.control, msg.controllen = None, 0
        if sendmsg(self._fd, self._msg_address, MSG_DONTWAIT) < 0:
            self._failed(ctypes.get_errno(), hop, len(data))

    def _slots(self, payload: int) -> Slots:
        slots = self._layouts.get(payload)
        if slots is None:
            if len(self._layouts) >= MAX_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            count = min(MAX_DATAGRAMS, MAX_PLAIN // payload + 2)
            slots = self._layouts[payload] = Slots(count, payload, MAX_PLAIN)
            for n in range(count):
                slots.headers[HEADER_SIZE * n + INDEX_AT] = n
        return slots

    def _aim(self, via: Neighbour) -> bool:
        """Address the next datagrams; False for an address that this socket cannot reach."""
        key = (via.endpoint.host, via.endpoint.port)
        address = self._addresses.get(key)
        if address is None:
            try:
                address = socket_address(via.endpoint, self._family)
            except OSError:
                self._peers.drop(Drop.UNDERLAY_ERROR)
                return False
            if len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.clear()
            self._addresses[key] = address
        if address is not self._aimed_at:
            self._name.raw = address.ljust(NAME_SIZE, b"\0")
            self._msg.namelen = len(address)
            self._aimed_at = address
        return True

    def _failed(self, error: int, hop: ShortID, size: int) -> None:
        if error == errno.EMSGSIZE:
            self._peers.drop(Drop.TOO_BIG)
            self._too_big(hop, size)
        elif error in (errno.EAGAIN, errno.ENOBUFS):
            self._peers.drop(Drop.UNDERLAY_FULL)
        else:
            self._peers.drop(Drop.UNDERLAY_ERROR)


def _write_headers(slots: Slots, fixed: bytes, total: int) -> None:
    """The same first octets and total for all slots; their indices stand there already.

    From one record to the next to the same peer hardly more than the last octet of the sequence
    number changes, so only what differs from what stands there is written.
    """
    headers, count = slots.headers, slots.count
    wanted = fixed + bytes((0, total))
    if wanted != slots.written:
        for n, (old, new) in enumerate(zip(slots.written, wanted, strict=True)):
            if old != new:
                headers[n::HEADER_SIZE] = bytes((new,)) * count
        slots.written = wanted
