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

CWR never joins: older kernels clear it on all segments but the first, newer ones (accurate ECN)
keep it on all. So no super-frame made here needs the ECN bit in its offload type.

Invariants: frames of one flow leave in the order in which they came; what leaves alone leaves as
it came.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from mesh.link.checksum import ones_sum
from mesh.link.frames import GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CHECKSUM
from mesh.wire.sleeve import MAX_RECORD, VNET, VNET_SIZE

MAX_FLOWS = 8
"""Flows held at a time, which is what the kernel's GRO holds in one of its lists."""

MAX_JOINED = MAX_RECORD
"""Octets of a super-frame with its offload header: below what pods' devices take unsegmented."""

LARGEST = MAX_JOINED // 2
"""A frame above this goes on as it is: two such do not fit, and copying it costs more than it
saves."""

MAX_UDP_SEGMENTS = 64
"""As in the kernel's GRO (UDP_GRO_CNT_MAX): receivers make their buffers for so many."""

DATA_VALID = 2
_TCP, _UDP = 6, 17
_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_ONLY_LAST = _FIN | _PSH
_NEVER = _SYN | _RST | _URG | _CWR
_ALONE = _NEVER | _ONLY_LAST

_NETWORK = VNET_SIZE + 14
_PORTS4, _PORTS6 = _NETWORK + 20, _NETWORK + 40
_AFTER4, _AFTER6 = _PORTS4 + 8, _PORTS6 + 8
_IPV4, _IPV6 = b"\x08\x00\x45", b"\x86\xdd"
_TCP_KINDS = (GSO_TCPV4, GSO_TCPV6)
_CAN_SUM = (NEEDS_CHECKSUM, DATA_VALID)

_HEAD4 = Struct("!28sHIH12sI").unpack_from
"""Up to IPv4's length; identification; fragment, TTL, protocol; checksum; addresses and ports;
TCP's sequence number, or UDP's length and checksum."""

_HEAD6 = Struct("!32s36sI").unpack_from
"""Up to the hop limit; addresses and ports; as above."""

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
        shape = _shape(frame)
        if shape is None or shape.is_last:
            return False
        self.shape, self.head = shape, shape.head
        self.unit_segments = shape.segments
        self.left = self._room()
        self.base = shape.base
        self.rest = None
        self.add_sequence = 0
        if shape.is_tcp:
            after = _AFTER6 if shape.is_six else _AFTER4
            self.rest = frame[after : shape.head]
            self.take_rest = _REST[len(self.rest)]
            self.add_sequence = shape.payload
            self.word = (self.word + shape.payload) & 0xFFFFFFFF
        self.fixed = -1
        if not shape.is_six:
            self.ident = (shape.ident + shape.segments) & 0xFFFF
            if frame[_NETWORK + 6] & 0x40:
                self.fixed = shape.ident
            check = int.from_bytes(frame[_NETWORK + 10 : _NETWORK + 12], "big")
            self.sum = (shape.ident + check) % 0xFFFF
        self.size = self.first
        return self.left > 0

    def append(self, frame: memoryview) -> bool | None:
        """Any frame that can join, not only one like the first. None when it cannot join,
        else whether more can."""
        mine, other = self.shape, _shape(bytes(frame))
        if other is None or other.same != mine.same:
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
        if not mine.is_tcp and self._segments() + other.segments > MAX_UDP_SEGMENTS:
            return None
        self.buffer += frame[other.head :]
        if not mine.is_six:
            self.ident = (self.ident + other.segments) & 0xFFFF
        if mine.is_tcp:
            self.word = (self.word + other.payload) & 0xFFFFFFFF
            self.buffer[(_PORTS6 if mine.is_six else _PORTS4) + 13] |= other.only_last
        self.left = self._room()
        return not other.is_last and other.payload % mine.gso_size == 0 and self.left > 0

    def close(self) -> bytearray:
        """The super-frame, its headers right for all of it; a frame alone as it came."""
        buffer = self.buffer
        if len(buffer) == self.first:
            return buffer
        shape, size = self.shape, len(buffer)
        ports = _PORTS6 if shape.is_six else _PORTS4
        if shape.is_six:
            buffer[_NETWORK + 4 : _NETWORK + 6] = (size - ports).to_bytes(2, "big")
            kind = GSO_TCPV6
        else:
            buffer[_NETWORK + 2 : _NETWORK + 4] = (size - _NETWORK).to_bytes(2, "big")
            buffer[_NETWORK + 10 : _NETWORK + 12] = b"\0\0"
            check = 0xFFFF - ones_sum(bytes(buffer[_NETWORK:ports]))
            buffer[_NETWORK + 10 : _NETWORK + 12] = check.to_bytes(2, "big")
            kind = GSO_TCPV4
        length = size - ports
        offset = 16
        if not shape.is_tcp:
            kind, offset = GSO_UDP_L4, 6
            buffer[ports + 4 : ports + 6] = length.to_bytes(2, "big")
        value = (self.base + length) % 0xFFFF or 0xFFFF
        buffer[ports + offset : ports + offset + 2] = value.to_bytes(2, "big")
        head, start = shape.head - VNET_SIZE, ports - VNET_SIZE
        VNET.pack_into(buffer, 0, NEEDS_CHECKSUM, kind, head, shape.gso_size, start, offset)
        return buffer

    def _room(self) -> int:
        """How many more frames like the first there is room for."""
        shape = self.shape
        left = (MAX_JOINED - len(self.buffer)) // shape.payload
        if shape.is_tcp:
            return left
        return min(left, (MAX_UDP_SEGMENTS - self._segments()) // shape.segments)

    def _segments(self) -> int:
        return (len(self.buffer) - self.head) // self.shape.gso_size


class _Shape:
    """What a frame is that can be part of a super-frame."""

    __slots__ = (
        *("base", "gso_size", "head", "ident", "is_last", "is_partial", "is_six", "is_super"),
        *("is_tcp", "only_last", "payload", "same", "segments", "sequence"),
    )

    is_six: bool
    is_tcp: bool
    is_partial: bool
    """Its checksum is still to be done."""
    is_super: bool
    is_last: bool
    """Nothing can follow it: its last segment is shorter, or says so."""
    head: int
    payload: int
    gso_size: int
    segments: int
    ident: int
    sequence: int
    only_last: int
    """Those of TCP's flags that only the last may have."""
    base: int
    """The sum that the checksum begins with, less the length."""
    same: bytes
    """The headers without what may differ between the frames of one super-frame."""


def _shape(frame: bytes) -> _Shape | None:
    """None for a frame that must stay alone. It has more octets than IP and UDP headers have."""
    size = len(frame)
    flags, gso, _, gso_size, start, offset = VNET.unpack_from(frame)
    shape = _Shape()
    shape.is_six = is_six = frame[22:24] == _IPV6
    if is_six:
        ports, protocol = _PORTS6, frame[30]
        if frame[24] >> 4 != 6 or frame[28] << 8 | frame[29] != size - ports:
            return None
        shape.ident = 0
        same = frame[:1] + frame[10:28] + frame[30 : ports + 4]
    else:
        ports, protocol = _PORTS4, frame[33]
        if frame[22:25] != _IPV4 or frame[26] << 8 | frame[27] != size - _NETWORK:
            return None
        if frame[30] & 0xBF or frame[31] or ones_sum(frame[_NETWORK:ports]) != 0xFFFF:
            return None
        shape.ident = frame[28] << 8 | frame[29]
        same = frame[:1] + frame[10:26] + frame[30:34] + frame[36 : ports + 4]
    bits = 0
    if protocol == _TCP:
        if size < ports + 20:
            return None
        head, check_at, kind = ports + (frame[ports + 12] >> 4) * 4, 16, _TCP_KINDS[is_six]
        bits = frame[ports + 13]
        if bits & _NEVER or head < ports + 20:
            return None
        shape.sequence = int.from_bytes(frame[ports + 4 : ports + 8], "big")
        same += frame[ports + 8 : ports + 13] + bytes((bits & ~_ONLY_LAST,))
        same += frame[ports + 14 : ports + 16] + frame[ports + 18 : head]
    elif protocol == _UDP:
        head, check_at, kind = ports + 8, 6, GSO_UDP_L4
        if frame[ports + 4] << 8 | frame[ports + 5] != size - ports:
            return None
        shape.sequence = 0
    else:
        return None
    check = frame[ports + check_at] << 8 | frame[ports + check_at + 1]
    if head >= size or (protocol == _UDP and not check):
        return None
    if flags == NEEDS_CHECKSUM:
        if start != ports - VNET_SIZE or offset != check_at:
            return None
        shape.base = check - (size - ports)
    elif flags == DATA_VALID:
        shape.base = ones_sum(frame[ports - (32 if is_six else 8) : ports]) + protocol
    else:
        return None
    payload = size - head
    if gso == GSO_NONE:
        gso_size = payload
    elif gso != kind or not gso_size:
        return None
    shape.is_tcp, shape.is_partial = protocol == _TCP, flags == NEEDS_CHECKSUM
    shape.is_super, shape.gso_size = gso != GSO_NONE, gso_size
    shape.segments = -(-payload // gso_size)
    shape.is_last = bool(bits & _ONLY_LAST) or payload % gso_size != 0
    shape.head, shape.payload = head, payload
    shape.only_last, shape.same = bits & _ONLY_LAST, same
    return shape


class Joiner:
    """``write(frame)`` is given what leaves: the very memoryview that was added where nothing
    joined it, or a buffer that is nobody else's."""

    __slots__ = ("_flows", "_write")

    def __init__(self, write: Callable[[memoryview | bytearray], None]) -> None:
        self._write = write
        self._flows: dict[bytes, _Flow] = {}

    def add(self, frame: memoryview) -> None:
        """A frame, virtio-net header first; what of it is held is copied."""
        size = len(frame)
        if not _AFTER4 < size <= LARGEST:
            self._pass(frame)
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
            and (flow.rest is None or flow.take_rest(frame, _AFTER4)[0] == flow.rest)
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
        if size <= _AFTER6:
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
            and (flow.rest is None or flow.take_rest(frame, _AFTER6)[0] == flow.rest)
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
        if start[22:25] != _IPV4 or middle & 0xBFFF0000 or protocol not in (_TCP, _UDP):
            self._pass(frame)
        elif start[0] in _CAN_SUM and (
            word & 0xFFFF if protocol == _UDP else _may_lead(frame, size, _PORTS4)
        ):
            self._hold(ends, _Flow(frame, size, start, middle, word))
        else:
            self._write(frame)

    def _begin_six(
        self, frame: memoryview, size: int, start: bytes, ends: bytes, word: int
    ) -> None:
        protocol = start[30]
        if start[22:24] != _IPV6 or start[24] >> 4 != 6 or protocol not in (_TCP, _UDP):
            self._pass(frame)
        elif start[0] in _CAN_SUM and (
            word & 0xFFFF if protocol == _UDP else _may_lead(frame, size, _PORTS6)
        ):
            self._hold(ends, _Flow(frame, size, start, 0, word))
        else:
            self._write(frame)

    def _hold(self, ends: bytes, flow: _Flow) -> None:
        flows = self._flows
        if len(flows) >= MAX_FLOWS:
            self._write(flows.pop(next(iter(flows))).close())
        flows[ends] = flow

    def _unlike(self, flow: _Flow, ends: bytes, frame: memoryview, size: int) -> None:
        """A frame between the same ends as ``flow``, and not just like its first."""
        if size <= flow.first or frame[1]:
            if not flow.size:
                if flow.open():
                    self.add(frame)
                    return
            elif (more := flow.append(frame)) is not None:
                if not more:
                    del self._flows[ends]
                    self._write(flow.close())
                return
        del self._flows[ends]
        self._write(flow.close())
        self.add(frame)


def _may_lead(frame: memoryview, size: int, ports: int) -> bool:
    """Whether a TCP segment has payload, and no flag that the kernel's GRO would end on."""
    return (
        size >= ports + 20
        and not frame[ports + 13] & _ALONE
        and size > ports + (frame[ports + 12] >> 4) * 4
    )
