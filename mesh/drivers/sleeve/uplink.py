"""From the pods: frames off the TAP, to the peers they are for."""

from __future__ import annotations

import os

from mesh.clock import Instant
from mesh.drivers.sleeve.sender import Sender
from mesh.link import icmp
from mesh.link.drops import Drop
from mesh.link.macs import LOCAL
from mesh.link.peers import Peer, Peers
from mesh.wire.sleeve import (
    BROADCAST_FLAG,
    ENVELOPE,
    FRAME_LENGTH,
    HOP_LIMIT,
    MAX_RECORD,
    VNET,
    VNET_SIZE,
)

_BUFFER = 140_000
_SUPER_FRAME = 4000
"""A frame of more octets than this ends its record: it fills one by itself."""

MAX_ROUNDS = 8
"""Records made before the socket has its turn again."""

ERRORS_PER_SECOND = 100
"""ICMP errors written to pods: a stream of too big packets must not become two."""

_HEAD = 4 + VNET_SIZE
"""Octets of the record before a frame's own first octet."""

_ETHERNET = 14
_NEEDS_CHECKSUM = 1


class Uplink:
    def __init__(self, peers: Peers, tap: int, sender: Sender, first_broadcast: int) -> None:
        self._peers, self._tap, self._sender = peers, tap, sender
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._broadcasts = first_broadcast
        self._errors_left = ERRORS_PER_SECOND
        self.frames = self.octets = 0

    def read(self, now: Instant) -> None:
        """The TAP has frames: those that wait together for one peer share a record."""
        for _ in range(MAX_ROUNDS):
            if not self._record(now):
                return

    def tick(self) -> None:
        """Once a second."""
        self._errors_left = ERRORS_PER_SECOND

    def _record(self, now: Instant) -> bool:
        peers, view, buffer = self._peers, self._view, self._buffer
        places = peers.macs.places
        dest: Peer | None = None
        n = 0
        more = True
        while n < MAX_RECORD:
            try:
                size = os.readv(self._tap, [view[n + 4 :]])
            except BlockingIOError:
                more = False
                break
            except OSError:
                peers.drop(Drop.TAP_REFUSED)  # the device went down: it comes back or we end
                more = False
                break
            if size < VNET_SIZE + _ETHERNET or peers.us is None:
                peers.drop(Drop.MALFORMED if peers.us is not None else Drop.NOT_CONFIGURED)
                continue
            self.frames += 1
            self.octets += size - VNET_SIZE
            source = bytes(view[n + _HEAD + 6 : n + _HEAD + 12])
            if places.get(source) == LOCAL:
                peers.macs.touched.add(source)
            else:
                peers.macs.learn(source, LOCAL, now)
            place = places.get(bytes(view[n + _HEAD : n + _HEAD + 6]))
            if place == LOCAL:
                peers.drop(Drop.LOCAL)
                continue
            peer = None if place is None else peers.peers.get(place)
            if peer is None:
                self._flood(bytes(view[n + 4 : n + 4 + size]))
                continue
            if self._packet_size(n, size) > peer.mtu:
                self._too_big(bytes(view[n + 4 : n + 4 + size]), peer)
                continue
            if dest is not None and peer is not dest:
                self._sender.record(dest, view[:n])
                buffer[4 : 4 + size] = view[n + 4 : n + 4 + size]
                n = 0
            dest = peer
            FRAME_LENGTH.pack_into(buffer, n, size)
            n += 4 + size
            if size > _SUPER_FRAME:
                break
        if dest is not None:
            self._sender.record(dest, view[:n])
        return more

    def _packet_size(self, n: int, size: int) -> int:
        """Octets of the IP packet, or of each packet a super-frame stands for."""
        _, gso_type, _, gso_size, start, _ = VNET.unpack_from(self._buffer, n + 4)
        if not gso_type:
            return size - VNET_SIZE - _ETHERNET
        offset = n + _HEAD + start
        if offset + 13 > n + 4 + size:
            return size
        is_udp = gso_type & 0x7F in (3, 5)
        header = 8 if is_udp else (self._buffer[offset + 12] >> 4) * 4
        return int(start) - _ETHERNET + header + int(gso_size)

    def _flood(self, frame: bytes) -> None:
        """A group address: along our tree. A peer we do not know: sealed for each peer alone.

        An unknown destination's frame is unicast, and only its receiver's host should read it; a
        tree would show it to every host on the way.
        """
        peers = self._peers
        if frame[VNET_SIZE] & 1:
            if peers.us is None:
                return
            self._broadcasts += 1
            envelope = ENVELOPE.pack(peers.us, self._broadcasts, HOP_LIMIT)
            head = FRAME_LENGTH.pack(len(frame) | BROADCAST_FLAG)
            record = memoryview(head + envelope + frame)
            for child in peers.trees.get(peers.us, ()):
                if (peer := peers.peers.get(child)) is not None:
                    self._sender.record(peer, record)
            return
        record = memoryview(FRAME_LENGTH.pack(len(frame)) + frame)
        for peer in peers.peers.values():
            self._sender.record(peer, record)

    def _too_big(self, frame: bytes, peer: Peer) -> None:
        """Say so to the pod, or cut the packet up where its sender allowed that."""
        ethernet = frame[VNET_SIZE:]
        answer = icmp.too_big(ethernet, peer.mtu)
        if answer is not None:
            self._peers.drop(Drop.TOO_BIG)
            if self._errors_left > 0:
                self._errors_left -= 1
                self._write(bytes(VNET_SIZE) + answer)
            return
        pieces = icmp.fragments(_with_checksum(frame), peer.mtu)
        if not pieces or frame[1]:
            self._peers.drop(Drop.TOO_BIG)
            return
        for piece in pieces:
            whole = bytes(VNET_SIZE) + piece
            self._sender.record(peer, memoryview(FRAME_LENGTH.pack(len(whole)) + whole))

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._tap, frame)
        except OSError:
            self._peers.drop(Drop.TAP_REFUSED)


def _with_checksum(frame: bytes) -> bytes:
    """The Ethernet frame behind a virtio-net header, its transport checksum completed."""
    flags, _, _, _, start, offset = VNET.unpack_from(frame)
    ethernet = frame[VNET_SIZE:]
    if not flags & _NEEDS_CHECKSUM or start + offset + 2 > len(ethernet):
        return ethernet
    value = icmp.checksum(ethernet[start:]) or 0xFFFF
    at = start + offset
    return ethernet[:at] + value.to_bytes(2, "big") + ethernet[at + 2 :]
