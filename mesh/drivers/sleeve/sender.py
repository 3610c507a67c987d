"""Out: records into datagrams, one AEAD call and one system call each.

A record is sealed straight into the payload array and its datagrams' headers are written by
strided slices, so that the cost does not grow with the number of datagrams.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Sequence

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
    address_of,
    sendmsg,
    socket_address,
)
from mesh.link.drops import Drop
from mesh.link.peers import Neighbour, Peer, Peers
from mesh.link.records import next_number, seal
from mesh.link.slotsize import MOST
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DATA,
    HEADER_SIZE,
    HOP_LIMIT,
    INDEX_AT,
    MAX_DATAGRAMS,
    MAX_PLAIN,
    PLAIN,
    SEQ_AT,
    TAG_SIZE,
)

MAX_LAYOUTS = 8
"""Slot layouts kept: paths have few different segments."""

MAX_ADDRESSES = 4096

_NONCE_HEAD = bytes(4)
_ALONE = bytes((0, 1, 0, 0))
"""Index, total and reserved octets of a record in one datagram."""


class _Way:
    """Everything about sending to a peer that changes only when a table does."""

    __slots__ = ("aad", "encrypt", "epoch", "fixed", "hop", "kind", "overhead", "slots", "via")

    def __init__(
        self, peers: Peers, peer: Peer, hop: ShortID, via: Neighbour, slots: Slots
    ) -> None:
        self.epoch = epoch = peer.active if peers.encrypted else None
        self.hop, self.via, self.slots = hop, via, slots
        kind = PLAIN if epoch is None else DATA
        self.aad = peers.prefix(kind, peer, epoch, hops=0)
        self.fixed = peers.prefix(kind, peer, epoch, hops=HOP_LIMIT)
        self.overhead = 0 if epoch is None else TAG_SIZE
        self.encrypt = None if epoch is None else epoch.aead.encrypt_into


class Sender:
    """One UDP socket's sending side. ``too_big(neighbour, size)`` is told of EMSGSIZE."""

    def __init__(
        self, peers: Peers, fd: int, family: int, too_big: Callable[[ShortID, int], None]
    ) -> None:
        self._peers, self._fd, self._family, self._too_big = peers, fd, family, too_big
        self._ways: dict[ShortID, _Way] = {}
        self._version = peers.version
        self._layouts: dict[int, Slots] = {}
        self._addresses: dict[tuple[str, int], bytes] = {}
        self._control = ctypes.create_string_buffer(24)
        self._control_address = ctypes.addressof(self._control)
        self._segment = 0
        self._name = ctypes.create_string_buffer(NAME_SIZE)
        self._msg = MsgHdr()
        self._msg.name = ctypes.addressof(self._name)
        self._msg_address = ctypes.addressof(self._msg)
        self._aimed_at: Neighbour | None = None
        # A record of one datagram needs no iovecs: header and payload lie side by side.
        self._single = bytearray(MOST + HEADER_SIZE)
        self._single_view = memoryview(self._single)
        self._single_iov = IoVec(address_of(self._single), 0)
        self._bursts: Slots | None = None
        picked = (IoVec * (2 * MAX_GSO_SEGMENTS))()
        self._picked_address = ctypes.addressof(picked)
        self._picked_view = memoryview(picked).cast("B")
        self._single_address = ctypes.addressof(self._single_iov)

    def record(self, peer: Peer, frames: memoryview) -> None:
        """Seal frames (a record's payload) for a peer and send them on their way."""
        way = self._way_to(peer)
        if way is None:
            return
        slots = way.slots
        payload = slots.payload
        size = len(frames) + way.overhead
        total = -(-size // payload)
        if total > slots.count:
            self._peers.drop(Drop.TOO_BIG, of=peer.short_id)
            return
        number = next_number(peer, way.epoch).to_bytes(8, "big")
        into = (
            slots.payload_view[:size]
            if total > 1
            else self._single_view[HEADER_SIZE : HEADER_SIZE + size]
        )
        if way.encrypt is None:
            into[:] = frames
        else:
            way.encrypt(_NONCE_HEAD + number, frames, way.aad, into)
        peer.tx_octets += len(frames)
        peer.tx_records += 1
        peer.tx_datagrams += total
        peer.tx_calls += 1
        if total == 1:
            self._single[:HEADER_SIZE] = way.fixed + number + _ALONE
            if self._aim(way.via):
                self._send_alone(HEADER_SIZE + size, way.hop)
            return
        stamp = (way.fixed, number[:7], total)
        if slots.stamp == stamp:
            slots.headers[SEQ_AT + 7 :: HEADER_SIZE] = number[7:] * slots.count
        else:
            _write_headers(slots, way.fixed + number, total)
            slots.stamp = stamp
        self.slots(slots, 0, total, size - (total - 1) * payload, way.hop, way.via)

    def singles(self, peer: Peer, records: Sequence[memoryview]) -> None:
        """Send records of which each should be one datagram: a path that loses what is large.

        Those of one size share a system call, as a record's datagrams do, and nothing else.
        """
        first = 0
        while first < len(records):
            size = len(records[first])
            end = first + 1
            most = min(MAX_GSO_SEGMENTS, MAX_GSO_OCTETS // (size + HEADER_SIZE + TAG_SIZE))
            while end < len(records) and end - first < most and len(records[end - 1]) == size:
                if len(records[end]) > size:
                    break
                end += 1  # of the same size, or the last and shorter
            self._burst(peer, records[first:end])
            first = end

    def _burst(self, peer: Peer, records: Sequence[memoryview]) -> None:
        way = self._way_to(peer)
        if way is None:
            return
        size = len(records[0]) + way.overhead
        if len(records) == 1 or size > way.slots.payload:
            for record in records:
                self.record(peer, record)
            return
        slots = self._bursts
        if slots is None or slots.payload < size:
            slots = self._bursts = Slots(MAX_GSO_SEGMENTS, way.slots.payload)
        for n, record in enumerate(records):
            number = next_number(peer, way.epoch).to_bytes(8, "big")
            slots.headers[HEADER_SIZE * n : HEADER_SIZE * (n + 1)] = way.fixed + number + _ALONE
            at, length = slots.payload * n, len(record) + way.overhead
            into = slots.payload_view[at : at + length]
            if way.encrypt is None:
                into[:] = record
            else:
                way.encrypt(_NONCE_HEAD + number, record, way.aad, into)
            slots.lengths[2 * n + 1] = length
            peer.tx_octets += len(record)
        peer.tx_records += len(records)
        peer.tx_datagrams += len(records)
        peer.tx_calls += 1
        if self._aim(way.via):
            self._send_run(slots.iov_address, len(records), size + HEADER_SIZE, way.hop)

    def slots(
        self, slots: Slots, first: int, total: int, tail: int, hop: ShortID, via: Neighbour
    ) -> None:
        """Send ``total`` slots from ``first`` on, the last with ``tail`` octets of payload."""
        if not self._aim(via):
            return
        segment = slots.payload + HEADER_SIZE
        most = min(MAX_GSO_SEGMENTS, MAX_GSO_OCTETS // segment)
        end = first + total
        slots.lengths[2 * end - 1] = tail
        while first < end:
            count = min(most, end - first)
            alone = count == 1 and first + 1 == end
            size = HEADER_SIZE + tail if alone else segment
            self._send_run(slots.iov_address + 32 * first, count, size, hop)
            first += count
        slots.lengths[2 * end - 1] = slots.payload

    def picked(
        self, slots: Slots, numbers: Sequence[int], tail: int, hop: ShortID, via: Neighbour
    ) -> None:
        """Send these slots, the last with ``tail`` octets of payload, and what lies between not."""
        if not self._aim(via):
            return
        segment = slots.payload + HEADER_SIZE
        slots.lengths[2 * numbers[-1] + 1] = tail
        most = min(MAX_GSO_SEGMENTS, MAX_GSO_OCTETS // segment)
        for first in range(0, len(numbers), most):
            some = numbers[first : first + most]
            octets = b"".join([slots.iov_view[32 * n : 32 * n + 32] for n in some])
            self._picked_view[: len(octets)] = octets
            alone = len(some) == 1 and first + 1 == len(numbers)
            size = HEADER_SIZE + tail if alone else segment
            self._send_run(self._picked_address, len(some), size, hop)
        slots.lengths[2 * numbers[-1] + 1] = slots.payload

    def small(self, kind: int, peer: Peer, body: bytes, *, via: Neighbour | None = None) -> None:
        """Send a record of one datagram: by its route, or straight ``via`` an address, one hop."""
        peers = self._peers
        path = peers.path(peer.short_id) if via is None else (peer.short_id, via, 0)
        epoch = peer.active if peers.encrypted else None
        if path is None or (epoch is None and peers.encrypted):
            peers.drop(Drop.NO_ROUTE if path is None else Drop.NO_KEY, of=peer.short_id)
            return
        seq = next_number(peer, epoch)
        sealed = seal(epoch, seq, peers.prefix(kind, peer, epoch, hops=0), body)
        prefix = peers.prefix(kind, peer, epoch, hops=HOP_LIMIT if via is None else 1)
        self.datagram(prefix + seq.to_bytes(8, "big") + _ALONE + sealed, path[0], path[1])

    def datagram(self, data: bytes, hop: ShortID, via: Neighbour) -> None:
        """Send one datagram that stands whole in memory."""
        if len(data) > len(self._single):
            self._peers.drop(Drop.TOO_BIG, of=hop)
        elif self._aim(via):
            self._single[: len(data)] = data
            self._send_alone(len(data), hop)

    # ---- inside

    def _send_run(self, iov: int, count: int, segment: int, hop: ShortID) -> None:
        """One system call for so many slots, whose iovecs lie there: each a datagram of ``segment``
        octets but for the last, which may be shorter."""
        msg = self._msg
        msg.iov, msg.iovlen = iov, 2 * count
        if count > 1:
            if segment != self._segment:
                self._segment = segment
                struct.pack_into("=QiiH6x", self._control, 0, 18, SOL_UDP, UDP_SEGMENT, segment)
            msg.control, msg.controllen = self._control_address, 24
        else:
            msg.control, msg.controllen = None, 0
        if sendmsg(self._fd, self._msg_address, MSG_DONTWAIT) < 0:
            self._failed(ctypes.get_errno(), hop, segment)

    def _way_to(self, peer: Peer) -> _Way | None:
        """How to send to a peer, remembered until a table changes."""
        if self._version != self._peers.version:
            self._version = self._peers.version
            self._ways.clear()
        return self._ways.get(peer.short_id) or self._way(peer)

    def _send_alone(self, size: int, hop: ShortID) -> None:
        self._single_iov.len = size
        msg = self._msg
        msg.iov, msg.iovlen = self._single_address, 1
        msg.control, msg.controllen = None, 0
        if sendmsg(self._fd, self._msg_address, MSG_DONTWAIT) < 0:
            self._failed(ctypes.get_errno(), hop, size)

    def _way(self, peer: Peer) -> _Way | None:
        """Find out how to send to a peer; None, and counted, where that is not possible."""
        peers = self._peers
        path = peers.path(peer.short_id)
        if path is None or (peer.active is None and peers.encrypted):
            peers.drop(Drop.NO_ROUTE if path is None else Drop.NO_KEY, of=peer.short_id)
            return None
        hop, via, segment = path
        way = _Way(peers, peer, hop, via, self._slots(segment - HEADER_SIZE))
        self._ways[peer.short_id] = way
        return way

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
        if via is self._aimed_at:
            return True
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
        self._name.raw = address.ljust(NAME_SIZE, b"\0")
        self._msg.namelen = len(address)
        self._aimed_at = via
        return True

    def _failed(self, error: int, hop: ShortID, size: int) -> None:
        if error == errno.EMSGSIZE:
            self._peers.drop(Drop.TOO_BIG, of=hop)
            self._too_big(hop, size)
        elif error in (errno.EAGAIN, errno.ENOBUFS):
            self._peers.drop(Drop.UNDERLAY_FULL, of=hop)
        else:
            self._peers.drop(Drop.UNDERLAY_ERROR, of=hop)


def _write_headers(slots: Slots, fixed: bytes, total: int) -> None:
    """The same first octets and total for all slots; their indices stand there already.

    Peers that share a layout have much in common, so only what differs from what stands there is
    written; the number's last octet always, for that may have been written since.
    """
    headers, count = slots.headers, slots.count
    wanted = fixed + bytes((0, total))
    for n, (old, new) in enumerate(zip(slots.written, wanted, strict=True)):
        if old != new or n == INDEX_AT - 1:
            headers[n::HEADER_SIZE] = bytes((new,)) * count
    slots.written = wanted
