"""What the data path reads of a frame, and how a TCP super-frame becomes several smaller ones.

A frame here is what the TAP hands up: virtio-net header, then Ethernet. With an offload type in
that header the frame is a super-frame: it stands for many packets of ``gso size`` octets of
payload each, which the kernel would cut it into (virtio specification 1.2, section 5.1.6.2).
"""

from __future__ import annotations

from mesh.link.checksum import checksum, ones_sum
from mesh.wire.sleeve import VNET, VNET_SIZE

ETHERNET = 14
NEEDS_CHECKSUM = 1
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 3, 4, 5
_GSO_KIND = 0x7F  # without the ECN bit
_TAGGED = (b"\x81\x00", b"\x88\xa8")
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_TCP = 6


def link_size(frame: bytes | bytearray | memoryview, at: int = 0) -> int:
    """Octets of the Ethernet header at ``at``, a VLAN tag included."""
    return ETHERNET + 4 if bytes(frame[at + 12 : at + 14]) in _TAGGED else ETHERNET


def packet_size(buffer: bytearray | bytes, at: int, size: int) -> int:
    """Octets of the IP packet, or of each packet that a super-frame stands for.

    ``at`` is where the virtio-net header begins, ``size`` the whole with it. A super-frame whose
    header points outside of it counts as one packet, too big for anybody.
    """
    frame, end = at + VNET_SIZE, at + size
    link = link_size(buffer, frame)
    _, gso, _, gso_size, start, _ = VNET.unpack_from(buffer, at)
    if not gso:
        return size - VNET_SIZE - link
    if start < link or frame + start + 13 > end:
        return size
    is_udp = gso & _GSO_KIND in (GSO_UDP, GSO_UDP_L4)
    transport = 8 if is_udp else (buffer[frame + start + 12] >> 4) * 4
    return int(start) - link + transport + int(gso_size)


def split(whole: bytes, octets: int) -> list[bytes]:
    """A TCP super-frame as several of about ``octets`` each, at the least one segment.

    What is no TCP super-frame with its checksum left to do, or is small enough, stays as it is.
    The pieces are what the kernel's own segmentation would have made of it: sequence numbers,
    IPv4 identifications, FIN and PSH only on the last, CWR only on the first.
    """
    flags, gso, header_size, mss, start, offset = VNET.unpack_from(whole)
    frame = whole[VNET_SIZE:]
    kind = gso & _GSO_KIND
    if kind not in (GSO_TCPV4, GSO_TCPV6) or not flags & NEEDS_CHECKSUM or not mss:
        return [whole]
    link = link_size(frame)
    if offset != 16 or start < link + (20 if kind == GSO_TCPV4 else 40) or len(frame) < start + 20:
        return [whole]
    head = start + (frame[start + 12] >> 4) * 4
    step = max(1, (octets - VNET_SIZE - head) // mss) * mss
    if not start + 20 <= head < len(frame) - step:
        return [whole]
    pieces = []
    for at in range(0, len(frame) - head, step):
        payload = frame[head + at : head + at + step]
        header = bytearray(frame[:head])
        _patch_network(header, kind, link, start, len(payload), at // mss)
        is_last = head + at + step >= len(frame)
        _patch_transport(header, kind, link, start, len(payload), at, is_last)
        more = len(payload) > mss
        vnet = (flags, gso if more else GSO_NONE, header_size, mss if more else 0, start, offset)
        pieces.append(VNET.pack(*vnet) + header + payload)
    return pieces


def _patch_network(
    header: bytearray, kind: int, link: int, start: int, payload: int, segments: int
) -> None:
    size = len(header) - link + payload
    if kind == GSO_TCPV6:
        header[link + 4 : link + 6] = (size - 40).to_bytes(2, "big")
        return
    header[link + 2 : link + 4] = size.to_bytes(2, "big")
    ident = int.from_bytes(header[link + 4 : link + 6], "big") + segments
    header[link + 4 : link + 6] = (ident & 0xFFFF).to_bytes(2, "big")
    header[link + 10 : link + 12] = b"\0\0"
    header[link + 10 : link + 12] = checksum(bytes(header[link:start])).to_bytes(2, "big")


def _patch_transport(
    header: bytearray, kind: int, link: int, start: int, payload: int, at: int, is_last: bool
) -> None:
    seq = int.from_bytes(header[start + 4 : start + 8], "big") + at
    header[start + 4 : start + 8] = (seq & 0xFFFFFFFF).to_bytes(4, "big")
    if not is_last:
        header[start + 13] &= ~(_FIN | _PSH) & 0xFF
    if at:
        header[start + 13] &= ~_CWR & 0xFF
    # A checksum left to do holds the pseudo-header's sum, not complemented.
    first, last = (link + 12, link + 20) if kind == GSO_TCPV4 else (link + 8, link + 40)
    size = len(header) - start + payload
    pseudo = bytes(header[first:last]) + size.to_bytes(4, "big") + bytes((0, 0, 0, _TCP))
    header[start + 16 : start + 18] = ones_sum(pseudo).to_bytes(2, "big")


def with_checksum(whole: bytes) -> bytes:
    """The Ethernet frame behind a virtio-net header, its transport checksum completed."""
    flags, _, _, _, start, offset = VNET.unpack_from(whole)
    frame = whole[VNET_SIZE:]
    if not flags & NEEDS_CHECKSUM or start + offset + 2 > len(frame):
        return frame
    value = checksum(frame[start:]) or 0xFFFF
    at = start + offset
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]
