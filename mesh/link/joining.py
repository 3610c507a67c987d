"""Frames of one flow that follow one another become one super-frame, as the kernel's GRO does it.

Who drives it: whoever writes frames to the TAP; ``add`` each in order, ``flush`` when no more are
at hand. Nothing waits longer than that, and nothing is kept from one burst to the next.

What may join is what segmentation makes out of the whole again, octet for octet (Linux
``tcp_gro_receive``, ``udp_gro_receive_segment``, ``inet_gro_receive``; virtio specification 1.2,
section 5.1.6.2): TCP and UDP over IPv4 without options or IPv6 without extension headers, not
fragmented, not tagged. Headers are the same but for lengths, checksums, sequence numbers, PSH and
FIN of the last, and IPv4 identifications, which go up by one; under DF they may also stand still,
for there they mean nothing (RFC 6864 section 4.1) and come out going up.

A frame joins only when its checksum is still to be done or known to be right. Segmentation writes
checksums anew: it would bless a damaged packet that came with a full, unverified one. For the same
reason a sum still to be done is carried over by the difference of the lengths and not made anew.

Frames to group addresses never join: they are few, and each of their receivers would have to take
the whole apart again.

CWR never joins: older kernels clear it on all segments but the first, newer ones (accurate ECN)
keep it on all. So no super-frame made here needs the ECN bit in its offload type.

Invariants: frames of one flow leave in the order in which they came; what leaves alone leaves as
it came.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from mesh.link.frames import GSO_UDP_L4, NEEDS_CHECKSUM
from mesh.link.joinable import (
    AFTER4,
    AFTER6,
    CAN_SUM,
    IPV4,
    IPV6,
    NETWORK,
    PORTS4,
    PORTS6,
    TCP,
    TCP_KINDS,
    UDP,
    may_lead,
    same_headers,
    shape_of,
)
from mesh.wire.sleeve import MAX_RECORD, VNET, VNET_SIZE

MAX_FLOWS = 32
"""Flows held at a time. Flows take turns, and to let go of one for each frame of another would
join nothing; to hold more costs no time, only ``MAX_JOINED`` octets each."""

MAX_JOINED = MAX_RECORD
"""Octets of a super-frame with its offload header: below what pods' devices take unsegmented."""

LARGEST = MAX_JOINED // 2
"""A frame above this goes on as it is: two such do not fit, and copying it costs more than it
saves."""

MAX_UDP_SEGMENTS = 64
"""As in the kernel's GRO (UDP_GRO_CNT_MAX): receivers make their buffers for so many."""

MAX_TCP_SEGMENTS = 128
"""Enough for the smallest usual segments (536 octets). Tens of thousands of one octet each would be
a burst of packets out of all proportion to what was sent, where something has to cut them."""

_HEAD4 = Struct("!28sHIH12sI").unpack_from
"""Up to IPv4's length; identification; fragment, TTL, protocol; checksum; addresses and ports;
TCP's sequence number, or UDP's length and checksum."""

_HEAD6 = Struct("!32s36sI").unpack_from
"""Up to the hop limit; addresses and ports; as above."""

_TWO = Struct("!H")
_REST = tuple(Struct(f"{n}s").unpack_from for n in range(53))
"""So many octets: what a TCP header has after its sequence number, options included."""


class _Flow:
    """A super-frame that may grow. What ``open`` sets is only needed where a second frame comes;
    for many there never does."""

    __slots__ = (
        *("add_sequence", "base", "buffer", "first", "fixed", "head", "ident", "left", "middle"),
        *("rest", "shape", "size", "start", "sum", "take_rest", "unit_segments", "word"),
    )

    rest: bytes | None
    """What a TCP header has after its sequence number."""

    def __init__(self, frame: memoryview, size: int, start: bytes, middle: int, word: int) -> None:
        self.buffer = bytearray(frame)
        self.first = size
        self.start, self.middle, self.word = start, middle, word
        self.size = 0  # of frames like the first, once it is open

    def open(self) -> bool:
        """Make ready for further frames; False when the first is such that none can follow."""
        frame = bytes(self.buffer)
        shape = shape_of(frame)
        if shape is None or shape.is_last:
            return False
        self.shape, self.head = shape, shape.head
        self.unit_segments = shape.segments
        self.left = self._room()
        self.base = shape.base
        self.rest = None
        self.add_sequence = 0
        if shape.is_tcp:
            after = AFTER6 if shape.is_six else AFTER4
            self.rest = frame[after : shape.head]
            self.take_rest = _REST[len(self.rest)]
            self.add_sequence = shape.payload
            self.word = (self.word + shape.payload) & 0xFFFFFFFF
        self.fixed = -1
        if not shape.is_six:
            self.ident = (shape.ident + shape.segments) & 0xFFFF
            if frame[NETWORK + 6] & 0x40:
                self.fixed = shape.ident
            check = int.from_bytes(frame[NETWORK + 10 : NETWORK + 12], "big")
            self.sum = (shape.ident + check) % 0xFFFF
        self.size = self.first
        return self.left > 0

    def append(self, frame: memoryview) -> bool | None:
        """Any frame that can join, not only one like the first. None when it cannot join,
        else whether more can."""
        octets = bytes(frame)
        mine, other = self.shape, shape_of(octets)
        if other is None or other.head != mine.head or other.is_six != mine.is_six:
            return None
        if same_headers(octets, mine) != same_headers(self.buffer[: mine.head], mine):
            return None
        if not mine.is_six and other.ident not in (self.ident, self.fixed):
            return None
        if mine.is_tcp and other.sequence != self.word:
            return None
        if other.gso_size != mine.gso_size and (other.is_super or other.payload > mine.gso_size):
            return None
        if mine.is_partial and (other.base - self.base) % 0xFFFF:
            return None
        if len(self.buffer) + other.payload > MAX_JOINED:
            return None
        if other.segments > self._segments_left():
            return None
        self.buffer += frame[other.head :]
        if not mine.is_six:
            self.ident = (self.ident + other.segments) & 0xFFFF
        if mine.is_tcp:
            self.word = (self.word + other.payload) & 0xFFFFFFFF
            self.buffer[(PORTS6 if mine.is_six else PORTS4) + 13] |= other.only_last
        self.left = self._room()
        return not other.is_last and other.payload % mine.gso_size == 0 and self.left > 0

    def close(self) -> bytearray:
        """The super-frame, its headers right for all of it; a frame alone as it came."""
        buffer = self.buffer
        if len(buffer) == self.first:
            return buffer
        shape, size = self.shape, len(buffer)
        if shape.is_six:
            ports = PORTS6
            length = size - ports
            _TWO.pack_into(buffer, NETWORK + 4, length)
        else:
            ports = PORTS4
            length = size - ports
            _TWO.pack_into(buffer, NETWORK + 2, size - NETWORK)
            (check,) = _TWO.unpack_from(buffer, NETWORK + 10)
            _TWO.pack_into(buffer, NETWORK + 10, (check + self.first - size) % 0xFFFF)
        if shape.is_tcp:
            kind, offset = TCP_KINDS[shape.is_six], 16
        else:
            kind, offset = GSO_UDP_L4, 6
            _TWO.pack_into(buffer, ports + 4, length)
        _TWO.pack_into(buffer, ports + offset, (self.base + length) % 0xFFFF or 0xFFFF)
        head, start = shape.head - VNET_SIZE, ports - VNET_SIZE
        VNET.pack_into(buffer, 0, NEEDS_CHECKSUM, kind, head, shape.gso_size, start, offset)
        return buffer

    def _room(self) -> int:
        """How many more frames like the first there is room for."""
        shape = self.shape
        octets = (MAX_JOINED - len(self.buffer)) // shape.payload
        return min(octets, self._segments_left() // shape.segments)

    def _segments_left(self) -> int:
        most = MAX_TCP_SEGMENTS if self.shape.is_tcp else MAX_UDP_SEGMENTS
        return most - (len(self.buffer) - self.head) // self.shape.gso_size


class Joiner:
    """``write(frame)`` is given what leaves: the very memoryview that was added where nothing
    joined it, or a buffer that is nobody else's. Without ``udp`` only TCP is joined: before Linux
    6.2 a TAP takes no UDP super-frames."""

    __slots__ = ("_flows", "_udp", "_write")

    def __init__(
        self, write: Callable[[memoryview | bytearray], None], *, udp: bool = True
    ) -> None:
        self._write, self._udp = write, udp
        self._flows: dict[bytes, _Flow] = {}

    def add(self, frame: memoryview) -> None:
        """A frame, virtio-net header first; what of it is held is copied."""
        size = len(frame)
        if not AFTER4 < size <= LARGEST:
            if self._flows:
                self.flush()
            self._write(frame)
            return
        if frame[22] == 0x86:
            self._add_six(frame, size)
            return
        # Whatever else it is, it is taken for IPv4 until the first octets tell.
        start, ident, middle, check, ends, word = _HEAD4(frame)
        flow = self._flows.get(ends)
        if flow is None:
            self._begin(frame, size, start, middle, ends, word)
        elif (
            size == flow.size
            and word == flow.word
            and start == flow.start
            and (ident == flow.ident or ident == flow.fixed)
            and (ident + check) % 0xFFFF == flow.sum
            and middle == flow.middle
            and (flow.rest is None or flow.take_rest(frame, AFTER4)[0] == flow.rest)
        ):
            flow.buffer += frame[flow.head :]
            flow.ident = (flow.ident + flow.unit_segments) & 0xFFFF
            flow.word = (word + flow.add_sequence) & 0xFFFFFFFF
            flow.left -= 1
            if not flow.left:
                del self._flows[ends]
                self._write(flow.close())
        else:
            self._unlike(flow, ends, frame, size)

    def _add_six(self, frame: memoryview, size: int) -> None:
        """The same for IPv6, which has neither identification nor checksum."""
        if size <= AFTER6:
            self._pass(frame)
            return
        start, ends, word = _HEAD6(frame)
        flow = self._flows.get(ends)
        if flow is None:
            self._begin_six(frame, size, start, ends, word)
        elif (
            size == flow.size
            and word == flow.word
            and start == flow.start
            and (flow.rest is None or flow.take_rest(frame, AFTER6)[0] == flow.rest)
        ):
            flow.buffer += frame[flow.head :]
            flow.word = (word + flow.add_sequence) & 0xFFFFFFFF
            flow.left -= 1
            if not flow.left:
                del self._flows[ends]
                self._write(flow.close())
        else:
            self._unlike(flow, ends, frame, size)

    def flush(self) -> None:
        """The burst is over: everything that is held leaves."""
        flows = self._flows
        if flows:
            self._flows = {}
            for flow in flows.values():
                self._write(flow.close())

    # ---- inside

    def _pass(self, frame: memoryview) -> None:
        """A frame of no flow we can tell: nothing that came before it may leave after it."""
        if self._flows:
            self.flush()
        self._write(frame)

    def _begin(
        self, frame: memoryview, size: int, start: bytes, middle: int, ends: bytes, word: int
    ) -> None:
        """Hold a frame of a flow of which none is held, unless others can never follow it."""
        protocol = middle & 0xFF
        if start[22:25] != IPV4 or middle & 0xBFFF0000 or protocol not in (TCP, UDP):
            self._pass(frame)
        elif (
            start[0] in CAN_SUM
            and not start[VNET_SIZE] & 1
            and (word & 0xFFFF and self._udp if protocol == UDP else may_lead(frame, size, PORTS4))
        ):
            self._hold(ends, _Flow(frame, size, start, middle, word))
        else:
            self._write(frame)

    def _begin_six(
        self, frame: memoryview, size: int, start: bytes, ends: bytes, word: int
    ) -> None:
        protocol = start[30]
        if start[22:24] != IPV6 or start[24] >> 4 != 6 or protocol not in (TCP, UDP):
            self._pass(frame)
        elif (
            start[0] in CAN_SUM
            and not start[VNET_SIZE] & 1
            and (word & 0xFFFF and self._udp if protocol == UDP else may_lead(frame, size, PORTS6))
        ):
            self._hold(ends, _Flow(frame, size, start, protocol, word))
        else:
            self._write(frame)

    def _hold(self, ends: bytes, flow: _Flow) -> None:
        flows = self._flows
        if len(flows) >= MAX_FLOWS:
            self._write(flows.pop(next(iter(flows))).close())
        flows[ends] = flow

    def _unlike(self, flow: _Flow, ends: bytes, frame: memoryview, size: int) -> None:
        """A frame between the same ends as ``flow``, and not just like its first."""
        if not flow.size:
            # A datagram and a shorter one stay two: joining them costs more than a write.
            is_super = frame[1] or flow.start[1]
            is_tcp = flow.middle & 0xFF == TCP
            if (size == flow.first or is_super or (is_tcp and size < flow.first)) and flow.open():
                self.add(frame)
                return
        elif (size <= flow.size or frame[1]) and (more := flow.append(frame)) is not None:
            if not more:
                del self._flows[ends]
                self._write(flow.close())
            return
        del self._flows[ends]
        self._write(flow.close())
        self.add(frame)
