"""Telling a pod that its packet does not fit: frag-needed and packet-too-big.

Sources: RFC 792 and RFC 1191 (type 3 code 4, next-hop MTU), RFC 4443 section 3.2 (type 2). The
message comes from the address the packet was sent to: the pod knows no router between itself and
its neighbour on one Ethernet, and its stack takes the hint from any source that quotes its packet.
"""

from __future__ import annotations

from struct import Struct

from mesh.link.checksum import checksum
from mesh.link.frames import link_size

IPV4, IPV6 = 0x0800, 0x86DD
ICMP, ICMPV6 = 1, 58
_WORD = Struct("!H")
MIN_MTU_V4, MIN_MTU_V6 = 68, 1280
QUOTE_V6 = 1232
"""As much as fits the minimum MTU (RFC 4443)."""


def too_big(frame: bytes, mtu: int) -> bytes | None:
    """The Ethernet frame that answers ``frame``, or None where nothing may be said.

    Nothing is said to packets without DF, to fragments behind the first, to group addresses, and
    to ICMP errors (RFC 1122 section 3.2.2).
    """
    link = link_size(frame)
    if len(frame) < link + 20 or frame[0] & 1:
        return None
    kind = _WORD.unpack_from(frame, link - 2)[0]
    if kind == IPV4:
        body = _frag_needed(frame[link:], max(mtu, MIN_MTU_V4))
    elif kind == IPV6:
        body = _packet_too_big(frame[link:], max(mtu, MIN_MTU_V6))
    else:
        return None
    if body is None:
        return None
    return frame[6:12] + frame[0:6] + frame[12:link] + body


def _frag_needed(packet: bytes, mtu: int) -> bytes | None:
    header = (packet[0] & 15) * 4
    flags = _WORD.unpack_from(packet, 6)[0]
    if packet[0] >> 4 != 4 or header < 20 or len(packet) < header + 8:
        return None
    dont_fragment, offset = flags & 0x4000, flags & 0x1FFF
    if not dont_fragment or offset:
        return None
    if packet[9] == ICMP and packet[header] not in (0, 8):
        return None
    quote = packet[: header + 8]
    message = bytes((3, 4)) + b"\0\0" + b"\0\0" + _WORD.pack(mtu) + quote
    message = message[:2] + _WORD.pack(checksum(message)) + message[4:]
    head = bytearray(bytes((0x45, 0xC0)) + _WORD.pack(20 + len(message)) + bytes(4))
    head += bytes((64, ICMP)) + b"\0\0" + packet[16:20] + packet[12:16]
    head[10:12] = _WORD.pack(checksum(bytes(head)))
    return bytes(head) + message


def _packet_too_big(packet: bytes, mtu: int) -> bytes | None:
    if packet[0] >> 4 != 6 or len(packet) < 40 or packet[24] == 0xFF:
        return None
    if packet[6] == ICMPV6 and len(packet) > 40 and packet[40] < 128:
        return None
    quote = packet[:QUOTE_V6]
    message = bytes((2, 0)) + b"\0\0" + mtu.to_bytes(4, "big") + quote
    source, destination = packet[24:40], packet[8:24]
    pseudo = source + destination + len(message).to_bytes(4, "big") + bytes((0, 0, 0, ICMPV6))
    message = message[:2] + _WORD.pack(checksum(pseudo + message)) + message[4:]
    head = bytes((0x60, 0, 0, 0)) + _WORD.pack(len(message)) + bytes((ICMPV6, 64))
    return head + source + destination + message


def fragments(frame: bytes, mtu: int) -> list[bytes]:
    """An IPv4 frame without DF in pieces that fit ``mtu`` (RFC 791 section 3.2); else nothing."""
    link = link_size(frame)
    if len(frame) < link + 20 or _WORD.unpack_from(frame, link - 2)[0] != IPV4:
        return []
    packet = frame[link:]
    header = (packet[0] & 15) * 4
    length = _WORD.unpack_from(packet, 2)[0]
    flags = _WORD.unpack_from(packet, 6)[0]
    if flags & 0x4000 or header < 20 or not header < length <= len(packet):
        return []
    step = (mtu - header) // 8 * 8
    if step < 8:
        return []
    out = []
    first, more = flags & 0x1FFF, flags & 0x2000
    payload = packet[header:length]
    for at in range(0, len(payload), step):
        piece = payload[at : at + step]
        last = at + step >= len(payload)
        head = bytearray(packet[:header])
        head[2:4] = _WORD.pack(header + len(piece))
        head[6:8] = _WORD.pack((first + at // 8) | (more if last else 0x2000))
        head[10:12] = b"\0\0"
        head[10:12] = _WORD.pack(checksum(bytes(head)))
        out.append(frame[:link] + bytes(head) + piece)
    return out
