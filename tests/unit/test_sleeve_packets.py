"""IP packets: ICMP errors, fragments, checksums, super-frames cut into smaller ones.

docs/protocol.md 10.10.
"""

from __future__ import annotations

import random
import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.link import icmp
from mesh.link.checksum import checksum, ones_sum
from mesh.link.frames import packet_size, split, with_checksum
from mesh.wire.sleeve import VNET, VNET_SIZE

ETHER4 = bytes.fromhex("0200000000bb 0200000000aa 0800")
ETHER6 = bytes.fromhex("0200000000bb 0200000000aa 86dd")
TAGGED = bytes.fromhex("0200000000bb 0200000000aa 8100 0007 0800")
V4A, V4B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
V6A, V6B = bytes(15) + b"\1", bytes(15) + b"\2"


def slow_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) % 2)
    total = 0
    for n in range(0, len(data), 2):
        total += data[n] << 8 | data[n + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


def v4(payload: bytes, *, flags: int = 0x4000, protocol: int = 17, options: bytes = b"") -> bytes:
    size = 20 + len(options) + len(payload)
    first = 0x40 | (5 + len(options) // 4)
    head = struct.pack("!BBHHHBBH4s4s", first, 0, size, 7, flags, 64, protocol, 0, V4A, V4B)
    head += options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def v6(payload: bytes, *, protocol: int = 17, target: bytes = V6B) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, V6A, target) + payload


@given(st.binary(max_size=100))
def test_checksum_against_the_slow_one(data: bytes) -> None:
    assert ones_sum(data) == slow_sum(data)
    assert checksum(data) == ~slow_sum(data) & 0xFFFF


def test_checksum_of_rfc_1071() -> None:
    """Its section 3 example."""
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_frag_needed_octets() -> None:
    """10.10: from the target, to the source, quoting header and eight octets."""
    packet = v4(bytes(range(200)))
    answer = icmp.too_big(ETHER4 + packet, 1420)
    assert answer is not None
    assert answer[:14].hex() == "0200000000aa0200000000bb0800"
    head, message = answer[14:34], answer[34:]
    assert (head[12:16], head[16:20], head[9]) == (V4B, V4A, 1)
    assert int.from_bytes(head[2:4], "big") == len(head) + len(message)
    assert message[:2] == bytes((3, 4))
    assert message[4:8] == (1420).to_bytes(4, "big")
    assert message[8:] == packet[:28]
    assert ones_sum(head) == ones_sum(message) == 0xFFFF


def test_packet_too_big_octets() -> None:
    packet = v6(bytes(2000))
    answer = icmp.too_big(ETHER6 + packet, 1420)
    assert answer is not None
    head, message = answer[14:54], answer[54:]
    assert (head[8:24], head[24:40], head[6]) == (V6B, V6A, 58)
    assert message[:2] == bytes((2, 0))
    assert message[4:8] == (1420).to_bytes(4, "big")
    assert message[8:] == packet[:1232]
    assert len(answer) - 14 <= 1280
    pseudo = V6B + V6A + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58))
    assert ones_sum(pseudo + message) == 0xFFFF


def test_a_tagged_frame_is_answered_with_its_tag() -> None:
    answer = icmp.too_big(TAGGED + v4(bytes(200)), 1420)
    assert answer is not None
    assert answer[:18].hex() == "0200000000aa0200000000bb810000070800"
    assert answer[27] == 1


def test_no_hint_below_the_least_mtu() -> None:
    """RFC 4443 3.2 and RFC 791: a pod must not be told of less than IP itself asks for."""
    answer = icmp.too_big(ETHER6 + v6(bytes(2000)), 1200)
    assert answer is not None
    assert answer[58:62] == (1280).to_bytes(4, "big")


@pytest.mark.parametrize(
    "frame",
    [
        ETHER4 + v4(bytes(200), flags=0),
        ETHER4 + v4(bytes(200), flags=0x4001),
        ETHER4 + v4(b"\3\4" + bytes(200), protocol=1),
        ETHER6 + v6(b"\2\0" + bytes(200), protocol=58),
        ETHER6 + v6(bytes(200), target=b"\xff\2" + bytes(14)),
        b"\xff" * 6 + ETHER4[6:] + v4(bytes(200)),
        ETHER4[:12] + b"\x08\x06" + bytes(28),
        ETHER4 + b"\x41" + bytes(60),
        ETHER4 + b"\x4f" + bytes(30),
    ],
    ids=["may fragment", "later fragment", "ICMP error", "ICMPv6 error", "IPv6 group",
         "Ethernet group", "ARP", "short header", "header longer than packet"],
)  # fmt: skip
def test_nothing_is_said(frame: bytes) -> None:
    """RFC 1122 3.2.2: no errors about errors, groups and later fragments."""
    assert icmp.too_big(frame, 1420) is None


def test_an_echo_request_is_answered() -> None:
    """Of ICMP, only errors are not."""
    for kind in (0, 8):
        assert icmp.too_big(ETHER4 + v4(bytes((kind,)) + bytes(200), protocol=1), 100) is not None
    assert icmp.too_big(ETHER6 + v6(b"\x80" + bytes(200), protocol=58), 1280) is not None


@given(
    st.binary(max_size=120), st.integers(0, 3000), st.sampled_from([ETHER4, ETHER6, TAGGED, b""])
)
def test_no_frame_raises(data: bytes, mtu: int, ether: bytes) -> None:
    for frame in (ether + data, ether + b"\x45" + data, ether + b"\x60" + data):
        icmp.too_big(frame, mtu)
        icmp.fragments(frame, mtu)
        whole = data[:10].ljust(10, b"\1") + frame
        with_checksum(whole)
        if len(whole) >= VNET_SIZE + 14:
            packet_size(bytearray(whole), 0, len(whole))
            assert b"".join(split(whole, 20))


@given(st.integers(1, 5000), st.integers(68, 1500), st.sampled_from([b"", bytes(8)]))
def test_fragments_put_together_are_the_packet(size: int, mtu: int, options: bytes) -> None:
    """10.10, RFC 791: sizes, offsets, flags and checksums."""
    payload = random.Random(size).randbytes(size)
    packet = v4(payload, flags=0, options=options)
    pieces = icmp.fragments(ETHER4 + packet + b"trailer", mtu)
    header = 20 + len(options)
    together = bytearray(size)
    for n, piece in enumerate(pieces):
        head, body = piece[14 : 14 + header], piece[14 + header :]
        assert len(head) + len(body) == int.from_bytes(head[2:4], "big") <= mtu
        assert ones_sum(head) == 0xFFFF
        flags = int.from_bytes(head[6:8], "big")
        assert bool(flags & 0x2000) is (n < len(pieces) - 1)
        at = (flags & 0x1FFF) * 8
        together[at : at + len(body)] = body
    assert bytes(together) == payload


def test_a_fragment_is_cut_into_fragments() -> None:
    """Its offset and its more-fragments bit carry over."""
    packet = v4(bytes(2000), flags=0x2000 | 185)
    flags = [int.from_bytes(p[20:22], "big") for p in icmp.fragments(ETHER4 + packet, 1420)]
    assert flags == [0x2000 | 185, 0x2000 | (185 + 175)]
    assert icmp.fragments(ETHER4 + v4(bytes(2000)), 1420) == [], "DF"


# ---- super-frames


def tcp_super(payload: bytes, *, mss: int, six: bool, flags: int = 0x99, seq: int = 2**32 - 5000
              ) -> bytes:  # fmt: skip
    """What the kernel hands up for a large send: the checksum is left to do."""
    tcp = struct.pack("!HHIIBBHHH", 1, 2, seq, 3, 8 << 4, flags, 500, 0, 0) + bytes(12)
    size = len(tcp) + len(payload)
    ends = V6A + V6B if six else V4A + V4B
    pseudo = ends + size.to_bytes(4, "big") + bytes((0, 0, 0, 6))
    tcp = tcp[:16] + ones_sum(pseudo).to_bytes(2, "big") + tcp[18:]
    network = v6(b"", protocol=6) if six else v4(b"", protocol=6)
    size_at, value = (4, size) if six else (2, 20 + size)
    network = network[:size_at] + value.to_bytes(2, "big") + network[size_at + 2 :]
    if not six:
        network = network[:10] + b"\0\0" + network[12:]
        network = network[:10] + checksum(network).to_bytes(2, "big") + network[12:]
    start = 14 + len(network)
    vnet = VNET.pack(1, 4 if six else 1, start + 32, mss, start, 16)
    return vnet + (ETHER6 if six else ETHER4) + network + tcp + payload


@given(st.integers(1, 65_000), st.integers(500, 1400), st.integers(100, 40_000), st.booleans())
def test_a_super_frame_in_pieces_is_the_same_stream(
    size: int, mss: int, octets: int, six: bool
) -> None:
    """10.9: every piece a right super-frame of its own, segments unbroken."""
    payload = random.Random(size).randbytes(size)
    whole = tcp_super(payload, mss=mss, six=six)
    pieces = split(whole, octets)
    network = 40 if six else 20
    start = VNET_SIZE + 14 + network
    stream = b""
    for n, piece in enumerate(pieces):
        flags, gso, _, gso_size, at, offset = VNET.unpack_from(piece)
        body = piece[start + 32 :]
        assert len(piece) <= max(octets, VNET_SIZE + 14 + network + 32 + mss)
        assert (flags, at, offset) == (1, 14 + network, 16)
        assert (gso, gso_size) == (((4 if six else 1), mss) if len(body) > mss else (0, 0)) or len(
            pieces
        ) == 1
        assert len(body) % mss == 0 or n == len(pieces) - 1
        assert int.from_bytes(piece[start + 4 : start + 8], "big") == (
            (2**32 - 5000 + len(stream)) % 2**32
        )
        bits = piece[start + 13]
        assert bool(bits & 0x09) is (n == len(pieces) - 1)
        assert bool(bits & 0x80) is (n == 0)
        head = piece[VNET_SIZE + 14 : start]
        if six:
            assert int.from_bytes(head[4:6], "big") == 32 + len(body)
        else:
            assert int.from_bytes(head[2:4], "big") == 52 + len(body)
            assert ones_sum(head) == 0xFFFF
            assert int.from_bytes(head[4:6], "big") == 7 + len(stream) // mss
        # With its checksum completed the segment is right.
        ends = V6A + V6B if six else V4A + V4B
        segment = with_checksum(piece)[14 + network :]
        pseudo = ends + len(segment).to_bytes(4, "big") + bytes((0, 0, 0, 6))
        assert ones_sum(pseudo + segment) == 0xFFFF
        stream += body
    assert stream == payload


def test_packet_size_of_super_frames() -> None:
    """10.10: what counts is what the kernel will cut it into."""
    whole = bytearray(tcp_super(bytes(40_000), mss=1368, six=False))
    assert packet_size(whole, 0, len(whole)) == 20 + 32 + 1368
    six = bytearray(b"??" + tcp_super(bytes(40_000), mss=1348, six=True))
    assert packet_size(six, 2, len(six) - 2) == 40 + 32 + 1348
    udp = bytearray(VNET.pack(1, 5, 42, 1300, 34, 6) + ETHER4 + v4(bytes(20_000)))
    assert packet_size(udp, 0, len(udp)) == 20 + 8 + 1300
    plain = bytearray(bytes(10) + ETHER4 + v4(bytes(1000)))
    assert packet_size(plain, 0, len(plain)) == 1020
    tagged = bytearray(bytes(10) + TAGGED + v4(bytes(1000)))
    assert packet_size(tagged, 0, len(tagged)) == 1020


def test_a_super_frame_that_points_outside_fits_nobody() -> None:
    lying = bytearray(VNET.pack(1, 1, 0, 10, 60_000, 16) + ETHER4 + v4(bytes(1000)))
    assert packet_size(lying, 0, len(lying)) == len(lying)
