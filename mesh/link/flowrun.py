"""Datagrams of one flow that wait together, joined where they are read.

A pod that sends many equal UDP datagrams is answered frame by frame by the kernel's TAP; joined
into one super-frame they are one frame from there on, through seal, relay, TAP and bridge, until
the receiving pod's kernel takes them apart at its socket, as it would what its own GRO joined.

Who drives it: the worker's uplink. It reads the next frame's headers to ``scratch`` and its payload
straight behind the payloads before; ``takes`` then says whether that is where it belongs.

Joined are IPv4 without options, DF set (RFC 6864: its identification then means nothing) and IPv6
without extension headers, UDP, the same headers but for identification and checksums, and of equal
length. Only frames whose checksum is left to do (NEEDS_CHECKSUM): segmentation makes checksums
anew, and would bless what was damaged before.
"""

from __future__ import annotations

from mesh.link.checksum import checksum, ones_sum
from mesh.link.frames import ETHERNET, GSO_UDP_L4, NEEDS_CHECKSUM
from mesh.wire.sleeve import VNET, VNET_SIZE

MAX_SEGMENTS = 64
"""Datagrams of one super-frame: what the kernel's own GRO stops at (UDP_GRO_CNT_MAX), so what a
receiver that asked for coalesced datagrams is prepared for."""

MAX_PACKET = 65_535
LARGEST = 4_000
"""Octets of a frame worth joining: a larger one is cheap by its size."""

_UDP, _UDP_HEADER, _CHECKSUM_AT = 17, 8, 6
_IPV4, _IPV6 = 20, 40
_DF = b"\x40\x00"


def _mask(size: int, *ignored: tuple[int, int]) -> int:
    octets = bytearray(b"\xff" * size)
    for first, last in ignored:
        octets[first:last] = bytes(last - first)
    return int.from_bytes(octets, "big")


_NETWORK = VNET_SIZE + ETHERNET
SIZE4, SIZE6 = _NETWORK + _IPV4 + _UDP_HEADER, _NETWORK + _IPV6 + _UDP_HEADER
"""Octets of all headers of a frame, the virtio-net header included."""

_MASK4 = _mask(SIZE4, (_NETWORK + 4, _NETWORK + 6), (_NETWORK + 10, _NETWORK + 12))
_MASK6 = _mask(SIZE6)


class FlowRun:
    """``size`` is 0 where no run is open; else how many octets of headers its frames have."""

    __slots__ = ("_frame", "_key", "_mask", "_scratch4", "_scratch6", "at", "scratch", "segments",
                 "size")  # fmt: skip

    def __init__(self) -> None:
        self._scratch4, self._scratch6 = (memoryview(bytearray(n)) for n in (SIZE4, SIZE6))
        self.scratch = self._scratch4
        self.size = self.at = self.segments = self._frame = 0
        self._key = self._mask = 0

    def open(self, buffer: bytearray, at: int, size: int) -> None:
        """Begin a run with the frame at ``at``, if it is one that others can join."""
        self.size = 0
        if not SIZE4 < size <= LARGEST:
            return
        flags, gso, _, _, start, offset = VNET.unpack_from(buffer, at)
        if gso or flags != NEEDS_CHECKSUM or offset != _CHECKSUM_AT:
            return
        ip = at + _NETWORK
        kind = buffer[ip - 2 : ip]
        if kind == b"\x08\x00" and start == ETHERNET + _IPV4:
            if (
                buffer[ip] != 0x45
                or buffer[ip + 9] != _UDP
                or buffer[ip + 6 : ip + 8] != _DF
                or int.from_bytes(buffer[ip + 2 : ip + 4], "big") != size - _NETWORK
            ):
                return
            self.size, self._mask, self.scratch = SIZE4, _MASK4, self._scratch4
        elif kind == b"\x86\xdd" and start == ETHERNET + _IPV6 and size > SIZE6:
            if (
                buffer[ip] >> 4 != 6
                or buffer[ip + 6] != _UDP
                or int.from_bytes(buffer[ip + 4 : ip + 6], "big") != size - _NETWORK - _IPV6
            ):
                return
            self.size, self._mask, self.scratch = SIZE6, _MASK6, self._scratch6
        else:
            return
        udp = at + self.size - _UDP_HEADER
        if int.from_bytes(buffer[udp + 4 : udp + 6], "big") != size - self.size + _UDP_HEADER:
            self.size = 0
            return
        self.at, self.segments, self._frame = at, 1, size
        self._key = int.from_bytes(buffer[at : at + self.size], "big") & self._mask

    def takes(self, size: int) -> bool:
        """Whether the frame of ``size`` octets, its headers in ``scratch``, goes on with the run;
        counted if so."""
        if (
            size != self._frame
            or int.from_bytes(self.scratch, "big") & self._mask != self._key
            or self.segments >= MAX_SEGMENTS
            or (size - self.size) * (self.segments + 1) + self.size - _NETWORK > MAX_PACKET
        ):
            return False
        self.segments += 1
        return True

    def close(self, buffer: bytearray) -> None:
        """Nothing more comes: make the headers say what stands behind them."""
        head, self.size = self.size, 0
        if not head or self.segments == 1:
            return
        at, payload = self.at, self._frame - head
        start = head - _UDP_HEADER - VNET_SIZE
        VNET.pack_into(
            buffer, at, NEEDS_CHECKSUM, GSO_UDP_L4, head - VNET_SIZE, payload, start, _CHECKSUM_AT
        )
        _set_lengths(buffer, at, head, payload * self.segments)
        if head == SIZE4:
            _set_header_checksum(buffer, at)


def datagrams(whole: bytes) -> list[bytes]:
    """A UDP super-frame as the frames it stands for; any other frame as it is.

    The inverse of a run, for kernels whose TAP does not take such super-frames (before Linux 6.2)
    and for paths that lose so much that each datagram goes by itself.
    """
    flags, gso, _, size, start, offset = VNET.unpack_from(whole)
    head = VNET_SIZE + start + _UDP_HEADER
    network = start - ETHERNET
    kind = {_IPV4: b"\x08\x00", _IPV6: b"\x86\xdd"}.get(network)
    if gso != GSO_UDP_L4 or not size or len(whole) <= head:
        return [whole]
    if kind is None or whole[_NETWORK - 2 : _NETWORK] != kind:
        return [whole]
    pieces = []
    for n, at in enumerate(range(head, len(whole), size)):
        payload = whole[at : at + size]
        header = bytearray(whole[:head])
        VNET.pack_into(header, 0, flags, 0, 0, 0, start, offset)
        _set_lengths(header, 0, head, len(payload))
        if network == _IPV4:
            ident = int.from_bytes(header[_NETWORK + 4 : _NETWORK + 6], "big") + n
            header[_NETWORK + 4 : _NETWORK + 6] = (ident & 0xFFFF).to_bytes(2, "big")
            _set_header_checksum(header, 0)
        pieces.append(bytes(header) + payload)
    return pieces


def _set_lengths(buffer: bytearray, at: int, head: int, payload: int) -> None:
    """All that depends on how much payload follows, but for the header's own checksum."""
    ip, udp = at + _NETWORK, at + head - _UDP_HEADER
    length = (payload + _UDP_HEADER).to_bytes(2, "big")
    if head == SIZE4:
        buffer[ip + 2 : ip + 4] = (payload + head - _NETWORK).to_bytes(2, "big")
        addresses = buffer[ip + 12 : ip + 20]
    else:
        buffer[ip + 4 : ip + 6] = length
        addresses = buffer[ip + 8 : ip + 40]
    buffer[udp + 4 : udp + 6] = length
    # A checksum left to do holds the pseudo-header's sum, not complemented.
    pseudo = bytes(addresses) + length + bytes((0, _UDP))
    buffer[udp + 6 : udp + 8] = ones_sum(pseudo).to_bytes(2, "big")


def _set_header_checksum(buffer: bytearray, at: int) -> None:
    ip = at + _NETWORK
    buffer[ip + 10 : ip + 12] = b"\0\0"
    buffer[ip + 10 : ip + 12] = checksum(bytes(buffer[ip : ip + _IPV4])).to_bytes(2, "big")
