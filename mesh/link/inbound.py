"""From a datagram for us to the frames it carries: who may speak, under which key, only once.

Who drives it: the worker's receiver. Records that came in one run are opened where they lie
(``record``); any other datagram comes by itself (``datagram``) and is put together first. Called
for every record, so this calls ``deliver`` and ``send`` and makes no effect objects.

Invariants: nothing is kept of a datagram before its tag was found right; a record is delivered
only if it is authentic, and no number of an epoch is delivered twice. No octets whatever raise.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from mesh.clock import Instant
from mesh.errors import MalformedMessageError
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.peers import Peer, Peers, RxEpoch
from mesh.link.reassembly import Reassembly
from mesh.link.records import Envelope, broadcast_record, frames_in
from mesh.link.slotsize import SlotSize
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DATA,
    HEADER,
    HEADER_SIZE,
    KINDS,
    MAX_DATAGRAMS,
    MAX_PLAIN,
    PLAIN,
    PREFIX,
    TAG_SIZE,
    VNET_SIZE,
    nonce,
)

Head = tuple[int, int, int, int, int]
"""(kind, source, epoch, tag, sequence number)."""

Control = Callable[[int, Peer, bytes, bytes, int], None]
"""(kind, peer, body, socket address it came from, octets of the datagram)."""


class Inbound:
    """``deliver(frame)`` writes to the TAP, ``send(peer, record)`` passes a broadcast on."""

    def __init__(
        self,
        peers: Peers,
        broadcasts: Broadcasts,
        sizes: SlotSize,
        *,
        deliver: Callable[[memoryview], None],
        send: Callable[[Peer, memoryview], None],
        control: Control,
    ) -> None:
        self._peers, self._broadcasts, self._sizes = peers, broadcasts, sizes
        self._deliver, self._send, self._control = deliver, send, control
        self._reassembly = Reassembly()
        self._plain = memoryview(bytearray(MAX_PLAIN))
        self.wanted: int | None = None
        """The slot size that would suit what comes better than the present one."""
        self.frames = self.octets = 0

    def datagram(self, data: bytes, source: bytes, now: Instant) -> None:
        """Any datagram for us: put aside until its record is whole, or opened at once."""
        peers = self._peers
        kind, _, src, dst, epoch, tag, seq, index, total, _ = HEADER.unpack_from(data)
        if not 0 < total <= MAX_DATAGRAMS or index >= total:
            peers.drop(Drop.MALFORMED)
            return
        head = (kind, src, epoch, tag, seq)
        admitted = self._admit(head)
        if admitted is None:
            return
        if admitted[1] is not None and admitted[1].seen.saw(seq):
            # Nothing of it is kept or opened; only what is authentic moves the window.
            peers.drop(Drop.REPLAYED)
            return
        piece = data[HEADER_SIZE:]
        if total > 1:
            if index + 1 < total:
                self.wanted = self._sizes.saw(len(piece)) or self.wanted
            key = (ShortID(src), epoch, seq)
            whole = self._reassembly.add(key, index, total, piece, now)
            if whole is None:
                return
            piece = whole
        opened = self._open(admitted, head, dst, memoryview(piece))
        if opened is None:
            peers.drop(Drop.UNAUTHENTIC)
        elif kind not in (DATA, PLAIN):
            if self._is_new(admitted, seq):
                self._control(kind, admitted[0], bytes(opened), source, len(data))
        else:
            self._accept(admitted, seq, opened, now)

    def record(self, head: Head, dst: int, data: memoryview, now: Instant) -> bool:
        """A whole DATA or PLAIN record as it lies; False where it must be taken piece by piece:
        when it does not open, something foreign may lie in its midst."""
        admitted = self._admit(head, count=False)
        if admitted is None:
            return False
        opened = self._open(admitted, head, dst, data)
        if opened is None:
            return False
        self._accept(admitted, head[4], opened, now)
        return True

    def age(self, now: Instant) -> None:
        """Call it every second: records that wait in vain are given up."""
        self._reassembly.age(now)
        for short_id, count in self._reassembly.take_lost().items():
            self._peers.drop(Drop.INCOMPLETE, count)
            if (peer := self._peers.peers.get(short_id)) is not None:
                peer.rx_lost += count

    def forget(self, peer: ShortID) -> None:
        self._reassembly.forget(peer)
        self._broadcasts.forget(peer)

    # ---- inside

    def _admit(self, head: Head, *, count: bool = True) -> tuple[Peer, RxEpoch | None] | None:
        """Who a record is from and the key it must open with; None when it has no business."""
        kind, src, epoch, tag, _ = head
        peers = self._peers
        peer = peers.peers.get(ShortID(src))
        rx = None
        reason = None
        if kind not in KINDS:
            reason = Drop.MALFORMED
        elif peer is None:
            reason = Drop.UNKNOWN_PEER
        elif not peers.encrypted:
            reason = Drop.UNKNOWN_EPOCH if kind == DATA or epoch else None
        elif kind == PLAIN:
            reason = Drop.NOT_ENCRYPTED
        elif (rx := peer.rx.get(epoch)) is None:
            reason = Drop.UNKNOWN_EPOCH
        elif rx.tag != tag:
            reason = Drop.WRONG_TAG
        if reason is not None:
            if count:
                peers.drop(reason)
            return None
        assert peer is not None
        return peer, rx

    def _open(
        self, admitted: tuple[Peer, RxEpoch | None], head: Head, dst: int, data: memoryview
    ) -> memoryview | None:
        """The payload of a record, None when it is not authentic."""
        rx = admitted[1]
        if rx is None:
            return data
        kind, src, epoch, tag, seq = head
        length = len(data) - TAG_SIZE
        if not 0 <= length <= MAX_PLAIN:
            return None
        plain = self._plain[:length]
        try:
            aad = PREFIX.pack(kind, 0, src, dst, epoch, tag)
            rx.aead.decrypt_into(nonce(seq), data, aad, plain)
        except InvalidTag:
            return None
        return plain

    def _is_new(self, admitted: tuple[Peer, RxEpoch | None], seq: int) -> bool:
        """Only for what is authentic: a forger could move the window."""
        rx = admitted[1]
        if rx is None or rx.seen.accept(seq):
            return True
        self._peers.drop(Drop.REPLAYED)
        return False

    def _accept(
        self, admitted: tuple[Peer, RxEpoch | None], seq: int, plain: memoryview, now: Instant
    ) -> None:
        """An authentic record of frames."""
        if not self._is_new(admitted, seq):
            return
        peer = admitted[0]
        peer.rx_octets += len(plain)
        peer.rx_whole += 1
        try:
            for envelope, frame in frames_in(plain):
                if envelope is None:
                    self._to_pods(peer.short_id, frame, now)
                else:
                    self._broadcast(envelope, frame, now)
        except MalformedMessageError:
            self._peers.drop(Drop.MALFORMED)

    def _to_pods(self, place: ShortID, frame: memoryview, now: Instant) -> None:
        """Learn where the frame's source is, and hand it to our bridge; never back to peers."""
        macs = self._peers.macs
        source = bytes(frame[VNET_SIZE + 6 : VNET_SIZE + 12])
        if macs.places.get(source) == place:
            macs.touched.add(source)
        elif source[0] & 1:
            self._peers.drop(Drop.BAD_SOURCE)
            return
        else:
            macs.learn(source, place, now)
        self.frames += 1
        self.octets += len(frame) - VNET_SIZE
        self._deliver(frame)

    def _broadcast(self, envelope: Envelope, frame: memoryview, now: Instant) -> None:
        """A group-addressed frame of ``origin``: once to our pods, and on along its tree."""
        peers = self._peers
        origin, number, hops = envelope
        if origin != peers.us and origin not in peers.peers:
            peers.drop(Drop.UNKNOWN_PEER)
            return
        if origin == peers.us or not self._broadcasts.accept(origin, number):
            peers.drop(Drop.DUPLICATE)
            return
        self._to_pods(origin, frame, now)
        children = peers.trees.get(origin, ())
        if not children:
            return
        if hops <= 1:
            peers.drop(Drop.HOP_LIMIT)
            return
        onward = broadcast_record((origin, number, hops - 1), frame)
        for child in children:
            if (peer := peers.peers.get(child)) is not None:
                self._send(peer, onward)
