"""From a datagram for us to the frames it carries: who may speak, under which key, only once.

Who drives it: the worker's receiver. Records that came in one run are opened where they lie
(``record``); any other datagram comes by itself (``datagram``) and is put together first. Called
for every record, so this calls ``deliver`` and ``send`` and makes no effect objects.

What may be said by whom is looked up once for all datagrams that begin with the same octets: a
*way* is kept until a table changes, and a datagram that no way leads for is refused by its header.

Invariants: nothing is kept of a datagram before its tag was found right; a record is delivered
only if it is authentic, and no number of an epoch is delivered twice. No octets whatever raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag

from mesh.clock import Instant
from mesh.errors import MalformedMessageError
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.lossmeter import SETTLE, Overruns
from mesh.link.peers import Peer, Peers, RxEpoch
from mesh.link.reassembly import Reassembly
from mesh.link.records import LEAST_FRAME, Envelope, broadcast_record, frames_in
from mesh.link.slotsize import SlotSize
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DATA,
    FRAME_LENGTH,
    HEADER,
    HEADER_SIZE,
    INDEX_AT,
    KINDS,
    MAX_DATAGRAMS,
    MAX_PLAIN,
    PLAIN,
    PREFIX,
    SEQ_AT,
    TAG_SIZE,
    TOTAL_AT,
    VNET_SIZE,
    WAY_SIZE,
)

Control = Callable[[int, Peer, bytes, bytes, int], None]
"""(kind, peer, body, socket address it came from, octets of the datagram)."""

MAX_WAYS = 4096
"""Remembered at the most; there is one for each worker, epoch, kind and hop count that is used."""

_NONCE_HEAD = bytes(4)


class Way:
    """What is the same for all datagrams that begin with the same WAY_SIZE octets."""

    __slots__ = ("aad", "epoch", "has_frames", "numbers", "open", "peer", "window")

    def __init__(self, peer: Peer, rx: RxEpoch | None, head: bytes) -> None:
        kind, _, src, dst, epoch, tag = PREFIX.unpack_from(head)
        self.peer, self.epoch = peer, epoch
        self.has_frames = kind in (DATA, PLAIN)
        self.aad = PREFIX.pack(kind, 0, src, dst, epoch, tag)
        self.open = None if rx is None else rx.aead.decrypt_into
        self.window = None if rx is None else rx.window(head[SEQ_AT])
        self.numbers = self.window or peer.plain_window(head[SEQ_AT])


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
        self._ways: dict[bytes, Way] = {}
        self._version = peers.version
        self.wanted: int | None = None
        """The slot size that would suit what comes better than the present one."""
        self.frames = self.octets = 0

    def ways(self) -> dict[bytes, Way]:
        """What was found out since a table last changed; good until the next message is applied."""
        if self._version != self._peers.version:
            self._version = self._peers.version
            self._ways.clear()
        return self._ways

    def way(self, head: bytes) -> Way | None:
        """Who a datagram with these first octets is from and the key it must open with; None, and
        counted, when it has no business here."""
        ways = self.ways()
        key = head[:WAY_SIZE]
        way = ways.get(key)
        if way is None:
            way = self._admit(head)
            if way is not None:
                if len(ways) >= MAX_WAYS:
                    ways.clear()
                ways[key] = way
        return way

    def datagram(self, data: bytes, source: bytes, now: Instant) -> None:
        """Any datagram for us: put aside until its record is whole, or opened at once."""
        peers = self._peers
        index, total = data[INDEX_AT], data[TOTAL_AT]
        if not 0 < total <= MAX_DATAGRAMS or index >= total:
            peers.drop(Drop.MALFORMED)
            return
        way = self.way(data)
        if way is None:
            return
        number = data[SEQ_AT:INDEX_AT]
        seq = int.from_bytes(number, "big")
        if self._repeats(way, seq):
            return
        piece = data[HEADER_SIZE:]
        if total > 1:
            if index + 1 < total:
                self.wanted = self._sizes.saw(len(piece)) or self.wanted
            key = (way.peer.short_id, way.epoch, seq)
            whole = self._reassembly.add(key, total, {index: piece}, now)
            if whole is None:
                return
            piece = whole
        opened = self._open(way, number, memoryview(piece))
        if opened is None:
            peers.drop(Drop.UNAUTHENTIC, of=way.peer.short_id)
        elif way.has_frames:
            self._accept(way, seq, opened, now, total)
        elif self._is_new(way, seq):
            self._control(data[0], way.peer, bytes(opened), source, len(data))

    def scattered(
        self, way: Way, number: bytes, total: int, pieces: Mapping[int, bytes], now: Instant
    ) -> None:
        """Payloads of one record of frames by index, as they lay among others: as ``datagram``
        with each, for less."""
        seq = int.from_bytes(number, "big")
        short_id = way.peer.short_id
        if self._repeats(way, seq, len(pieces)):
            return
        size = next((len(piece) for n, piece in pieces.items() if n + 1 < total), 0)
        self.wanted = self._sizes.saw(size, len(pieces)) or self.wanted
        whole = self._reassembly.add((short_id, way.epoch, seq), total, pieces, now)
        if whole is None:
            return
        opened = self._open(way, number, memoryview(whole))
        if opened is None:
            self._peers.drop(Drop.UNAUTHENTIC, of=short_id)
        else:
            self._accept(way, seq, opened, now, total)

    def refused(self, way: Way, number: bytes) -> None:
        """Count a datagram that is a record, and that does not open."""
        if not self._repeats(way, int.from_bytes(number, "big")):
            self._peers.drop(Drop.UNAUTHENTIC, of=way.peer.short_id)

    def record(
        self, way: Way, number: bytes, data: memoryview, now: Instant, datagrams: int
    ) -> bool:
        """A whole record of frames as it lies, its number as it came; False where it must be taken
        piece by piece: when it does not open, something foreign may lie in its midst."""
        plain = data
        if way.open is not None:
            length = len(data) - TAG_SIZE
            if not 0 <= length <= MAX_PLAIN:
                return False
            plain = self._plain[:length]
            try:
                way.open(_NONCE_HEAD + number, data, way.aad, plain)
            except InvalidTag:
                return False
        self._accept(way, int.from_bytes(number, "big"), plain, now, datagrams)
        return True

    def age(self, now: Instant) -> None:
        """Call it every second: records that wait in vain are given up."""
        self._reassembly.age(now)
        for short_id, count in self._reassembly.take_lost().items():
            self._peers.drop(Drop.INCOMPLETE, count, of=short_id)

    def look(self, overruns: Overruns, now: Instant) -> list[tuple[Peer, bytes]]:
        """What to REPORT to whom (10.9). Call it every ``LOOK`` seconds while anything comes."""
        torn = self._reassembly.take_torn(now, SETTLE)
        reports = []
        for short_id, peer in self._peers.peers.items():
            meter = peer.meter
            if meter.active or short_id in torn:
                meter.look(peer.windows(), torn.get(short_id, (0, 0)), overruns)
                if (report := meter.report(now)) is not None:
                    reports.append((peer, report))
        return reports

    @property
    def is_waiting(self) -> bool:
        """Whether another look is due soon, even if nothing more comes."""
        meters = (peer.meter for peer in self._peers.peers.values())
        return bool(self._reassembly) or any(meter.active for meter in meters)

    def forget(self, peer: ShortID) -> None:
        self._reassembly.forget(peer)
        self._broadcasts.forget(peer)

    # ---- inside

    def _admit(self, head: bytes) -> Way | None:
        kind, _, src, _, epoch, tag, *_ = HEADER.unpack_from(head)
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
            peers.drop(reason, of=ShortID(src))
            return None
        assert peer is not None
        return Way(peer, rx, head)

    def _repeats(self, way: Way, seq: int, datagrams: int = 1) -> bool:
        """Whether this number was accepted before; then what has it is counted, and nothing of it
        kept or opened. Only what is authentic moves the window."""
        if way.window is not None and way.window.saw(seq):
            self._peers.drop(Drop.REPLAYED, datagrams, of=way.peer.short_id)
            return True
        return False

    def _open(self, way: Way, number: bytes, data: memoryview) -> memoryview | None:
        """The payload of a record, None when it is not authentic."""
        if way.open is None:
            return data
        length = len(data) - TAG_SIZE
        if not 0 <= length <= MAX_PLAIN:
            return None
        plain = self._plain[:length]
        try:
            way.open(_NONCE_HEAD + number, data, way.aad, plain)
        except InvalidTag:
            return None
        return plain

    def _is_new(self, way: Way, seq: int) -> bool:
        """Only for what is authentic: a forger could move the window."""
        if way.window is None:
            way.numbers.note(seq)
            return True
        if way.window.accept(seq):
            return True
        self._peers.drop(Drop.REPLAYED, of=way.peer.short_id)
        return False

    def _accept(self, way: Way, seq: int, plain: memoryview, now: Instant, datagrams: int) -> None:
        """An authentic record of frames."""
        if not self._is_new(way, seq):
            return
        peer = way.peer
        size = len(plain)
        peer.rx_octets += size
        peer.rx_records += 1
        peer.meter.came(datagrams)
        if size >= FRAME_LENGTH.size + LEAST_FRAME:
            (length,) = FRAME_LENGTH.unpack_from(plain)
            if length == size - FRAME_LENGTH.size:  # one frame, as records of super-frames have
                self._to_pods(peer.short_id, plain[FRAME_LENGTH.size :], now)
                return
        try:
            for envelope, frame in frames_in(plain):
                if envelope is None:
                    self._to_pods(peer.short_id, frame, now)
                else:
                    self._broadcast(envelope, frame, now)
        except MalformedMessageError:
            self._peers.drop(Drop.MALFORMED, of=peer.short_id)

    def _to_pods(self, place: ShortID, frame: memoryview, now: Instant) -> None:
        """Learn where the frame's source is, and hand it to our bridge; never back to peers."""
        macs = self._peers.macs
        source = bytes(frame[VNET_SIZE + 6 : VNET_SIZE + 12])
        if macs.places.get(source) == place:
            macs.touched.add(source)
        elif source[0] & 1:
            self._peers.drop(Drop.BAD_SOURCE, of=place)
            return
        else:
            macs.learn(source, place, now)
        self.frames += 1
        if (peer := self._peers.peers.get(place)) is not None:
            peer.rx_frames += 1
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
            peers.drop(Drop.DUPLICATE, of=origin)
            return
        if not peers.peers[origin].in_kernel:
            self._to_pods(origin, frame, now)
        children = peers.trees.get(origin, ())
        if not children:
            return
        if hops <= 1:
            peers.drop(Drop.HOP_LIMIT, of=origin)
            return
        onward = broadcast_record((origin, number, hops - 1), frame)
        for child in children:
            if (peer := peers.peers.get(child)) is not None:
                self._send(peer, onward)
