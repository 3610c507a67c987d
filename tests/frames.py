"""Frames as a TAP gives them, and a slow segmenter to take super-frames apart again.

``on_the_wire`` follows the virtio specification 1.2, section 5.1.6.2, and what Linux does in
``inet_gso_segment``, ``tcp_gso_segment`` and ``__udp_gso_segment``. It shares no code with what it
is to judge.
"""

from __future__ import annotations

import struct

VNET = struct.Struct("<BBHHHH")
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << n for n in range(8))
PARTIAL, VALID = 1, 2
TIMESTAMPS = bytes.fromhex("0101080a 00000001 00000002")


def total(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) % 2)
    value = 0
    for n in range(0, len(data), 2):
        value += data[n] << 8 | data[n + 1]
        value = (value & 0xFFFF) + (value >> 16)
    return value


def build(
    payload: bytes,
    *,
    six: bool = False,
    tcp: bool = False,
    gso_size: int = 0,
    known: int = PARTIAL,
    ident: int = 7,
    df: bool = True,
    fragment: int = 0,
    ttl: int = 64,
    tos: int = 0,
    label: int = 5,
    port: int = 1000,
    host: int = 1,
    mac: int = 0xAA,
    seq: int = 0,
    ack: int = 3,
    bits: int = ACK,
    window: int = 500,
    options: bytes = TIMESTAMPS,
    ip_options: bytes = b"",
) -> bytes:
    """A frame with its virtio-net header; checksums as ``known`` says, or full and unverified."""
    if six:
        ends = b"\xfd" + bytes(14) + bytes((host,)) + b"\xfd" + bytes(14) + b"\2"
    else:
        ends = bytes((10, 0, 0, host, 10, 0, 0, 2))
    protocol, at = (6, 16) if tcp else (17, 6)
    if tcp:
        words = (5 + len(options) // 4) << 4
        transport = struct.pack("!HHIIBBHHH", port, 2, seq, ack, words, bits, window, 0, 0)
        transport += options
    else:
        transport = struct.pack("!HHHH", port, 2, 8 + len(payload), 0)
    size = len(transport) + len(payload)
    value = total(ends + size.to_bytes(4, "big") + bytes((0, 0, 0, protocol)))
    if known != PARTIAL:
        value = ~(total(value.to_bytes(2, "big") + transport + payload)) & 0xFFFF or 0xFFFF
    transport = transport[:at] + value.to_bytes(2, "big") + transport[at + 2 :]
    if six:
        word = 6 << 28 | tos << 20 | label
        network = struct.pack("!IHBB", word, size, protocol, ttl) + ends
        kind = b"\x86\xdd"
    else:
        first, flags = 0x45 + len(ip_options) // 4, df << 14 | fragment
        size += 20 + len(ip_options)
        network = struct.pack("!BBHHHBBH", first, tos, size, ident, flags, ttl, protocol, 0)
        network = _summed(network + ends + ip_options)
        kind = b"\x08\x00"
    link = bytes.fromhex("0200000000bb 0200000000") + bytes((mac,)) + kind
    offload = ((4 if six else 1) if tcp else 5) if gso_size else 0
    start = 14 + len(network)
    head = start + len(transport)
    points = (start, at) if known == PARTIAL else (0, 0)
    vnet = VNET.pack(known, offload, head if offload else 0, gso_size, *points)
    return vnet + link + network + transport + payload


def on_the_wire(whole: bytes) -> list[bytes]:
    """The Ethernet frames that a frame with a virtio-net header stands for, sums completed.

    What the header does not say rightly is kept with the header as it is.
    """
    flags, offload, header, gso_size, start, offset = VNET.unpack_from(whole)
    frame = whole[10:]
    if not flags & PARTIAL:
        return [whole] if offload else [frame]
    if start + offset + 2 > len(frame):
        return [whole]
    if not offload:
        return [_completed(frame, start, offset)]
    kind = offload & 0x7F
    udp = kind == 5
    if not gso_size or offset != (6 if udp else 16) or start + (8 if udp else 20) > len(frame):
        return [whole]
    head = start + (8 if udp else (frame[start + 12] >> 4) * 4)
    if header != head or len(frame) <= head:
        return [whole]
    six = frame[12:14] == b"\x86\xdd"
    segments = []
    payload = frame[head:]
    for n, at in enumerate(range(0, len(payload), gso_size)):
        piece = payload[at : at + gso_size]
        segment = bytearray(frame[:head]) + piece
        size = len(segment) - start
        if six:
            segment[18:20] = size.to_bytes(2, "big")
        else:
            segment[16:18] = (len(segment) - 14).to_bytes(2, "big")
            ident = (int.from_bytes(segment[18:20], "big") + n) % 65536
            segment[18:20] = ident.to_bytes(2, "big")
            segment[14:start] = _summed(bytes(segment[14:start]))
        if udp:
            segment[start + 4 : start + 6] = size.to_bytes(2, "big")
        else:
            seq = (int.from_bytes(segment[start + 4 : start + 8], "big") + at) % 2**32
            segment[start + 4 : start + 8] = seq.to_bytes(4, "big")
            if at + gso_size < len(payload):
                segment[start + 13] &= ~(FIN | PSH)
            if at:
                segment[start + 13] &= ~CWR
        # The sum that is there was made for the whole; a wrong one stays wrong.
        where = slice(start + offset, start + offset + 2)
        given = int.from_bytes(segment[where], "big")
        less = ~(len(frame) - start) & 0xFFFF
        both = given.to_bytes(2, "big") + less.to_bytes(2, "big") + size.to_bytes(2, "big")
        segment[where] = total(both).to_bytes(2, "big")
        segments.append(_completed(bytes(segment), start, offset))
    return segments


def without_ident(frame: bytes) -> bytes:
    """An IPv4 frame with DF and no options, its identification nothing: RFC 6864 section 4.1."""
    if frame[12:15] != b"\x08\x00\x45" or len(frame) < 34 or not frame[20] & 0x40:
        return frame
    return frame[:14] + _summed(frame[14:18] + b"\0\0" + frame[20:34]) + frame[34:]


def _summed(header: bytes) -> bytes:
    """An IPv4 header with its checksum."""
    header = header[:10] + b"\0\0" + header[12:]
    return header[:10] + (~total(header) & 0xFFFF).to_bytes(2, "big") + header[12:]


def _completed(frame: bytes, start: int, offset: int) -> bytes:
    at = start + offset
    value = ~total(frame[start:]) & 0xFFFF or 0xFFFF
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]
