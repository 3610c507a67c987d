"""What a frame is that could be part of a super-frame, and whether it could be at all.

The rules are those of Linux' GRO (``tcp_gro_receive``, ``udp_gro_receive_segment``,
``inet_gro_receive``, ``ipv6_gro_receive``); ``mesh.link.joining`` applies them to neighbours.
"""

from __future__ import annotations

from mesh.link.checksum import ones_sum
from mesh.link.frames import GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CHECKSUM
from mesh.wire.sleeve import VNET, VNET_SIZE

DATA_VALID = 2
TCP, UDP = 6, 17
_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_ONLY_LAST = _FIN | _PSH
_NEVER = _SYN | _RST | _URG | _CWR
_ALONE = _NEVER | _ONLY_LAST

NETWORK = VNET_SIZE + 14
PORTS4, PORTS6 = NETWORK + 20, NETWORK + 40
AFTER4, AFTER6 = PORTS4 + 8, PORTS6 + 8
IPV4, IPV6 = b"\x08\x00\x45", b"\x86\xdd"
TCP_KINDS = (GSO_TCPV4, GSO_TCPV6)
CAN_SUM = (NEEDS_CHECKSUM, DATA_VALID)


class Shape:
    """What a frame is that can be part of a super-frame."""

    __slots__ = (
        *("base", "gso_size", "head", "ident", "is_last", "is_partial", "is_six", "is_super"),
        *("is_tcp", "only_last", "payload", "segments", "sequence"),
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


def shape_of(frame: bytes) -> Shape | None:
    """None for a frame that must stay alone. It has more octets than IP and UDP headers have."""
    size = len(frame)
    flags, gso, _, gso_size, start, offset = VNET.unpack_from(frame)
    shape = Shape()
    shape.is_six = is_six = frame[22:24] == IPV6
    if is_six:
        ports, protocol = PORTS6, frame[30]
        if frame[24] >> 4 != 6 or frame[28] << 8 | frame[29] != size - ports:
            return None
        shape.ident = 0
    else:
        ports, protocol = PORTS4, frame[33]
        if frame[22:25] != IPV4 or frame[26] << 8 | frame[27] != size - NETWORK:
            return None
        if frame[30] & 0xBF or frame[31] or ones_sum(frame[NETWORK:ports]) != 0xFFFF:
            return None
        shape.ident = frame[28] << 8 | frame[29]
    bits = 0
    if protocol == TCP:
        if size < ports + 20:
            return None
        head, check_at, kind = ports + (frame[ports + 12] >> 4) * 4, 16, TCP_KINDS[is_six]
        bits = frame[ports + 13]
        if bits & _NEVER or head < ports + 20:
            return None
        shape.sequence = int.from_bytes(frame[ports + 4 : ports + 8], "big")
    elif protocol == UDP:
        head, check_at, kind = ports + 8, 6, GSO_UDP_L4
        if frame[ports + 4] << 8 | frame[ports + 5] != size - ports:
            return None
        shape.sequence = 0
    else:
        return None
    check = frame[ports + check_at] << 8 | frame[ports + check_at + 1]
    if head >= size or (protocol == UDP and not check):
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
    shape.is_tcp, shape.is_partial = protocol == TCP, flags == NEEDS_CHECKSUM
    shape.is_super, shape.gso_size = gso != GSO_NONE, gso_size
    shape.segments = -(-payload // gso_size)
    shape.is_last = bool(bits & _ONLY_LAST) or payload % gso_size != 0
    shape.head, shape.payload = head, payload
    shape.only_last = bits & _ONLY_LAST
    return shape


def same_headers(frame: bytes | bytearray, shape: Shape) -> bytes:
    """The headers without what may differ between the frames of one super-frame."""
    if shape.is_six:
        ports = PORTS6
        same = frame[:1] + frame[10:28] + frame[30 : ports + 4]
    else:
        ports = PORTS4
        same = frame[:1] + frame[10:26] + frame[30:34] + frame[36 : ports + 4]
    if shape.is_tcp:
        same += frame[ports + 8 : ports + 13] + bytes((frame[ports + 13] & ~_ONLY_LAST,))
        same += frame[ports + 14 : ports + 16] + frame[ports + 18 : shape.head]
    return bytes(same)


def may_lead(frame: memoryview, size: int, ports: int) -> bool:
    """Whether a TCP segment has payload, and no flag that the kernel's GRO would end on."""
    return (
        size >= ports + 20
        and not frame[ports + 13] & _ALONE
        and size > ports + (frame[ports + 12] >> 4) * 4
    )
