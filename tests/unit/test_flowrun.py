"""Waiting datagrams of one flow joined in place (docs/protocol.md 10.12), and taken apart again.

Why it is built so: sleeve.md 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.link.checksum import checksum, ones_sum
from mesh.link.flowrun import MAX_SEGMENTS, SIZE4, SIZE6, FlowRun, datagrams
from mesh.link.frames import GSO_UDP_L4, packet_size
from mesh.wire.sleeve import VNET, VNET_SIZE

NETWORK = VNET_SIZE + 14


@dataclass(frozen=True)
class Flow:
    """What the frames of a flow share."""

    v6: bool = False
    target: bytes = bytes((2, 0, 0, 0, 0, 2))
    port: int = 2000
    ttl: int = 64
    tos: int = 0
    flags: int = 0x4000
    protocol: int = 17
    vnet_flags: int = 1

    @property
    def head(self) -> int:
        return SIZE6 if self.v6 else SIZE4

    def frame(self, payload: bytes, ident: int = 0) -> bytes:
        """As a pod's kernel hands it to the TAP: the UDP checksum is left to do."""
        length = len(payload) + 8
        if self.v6:
            addresses = bytes(range(32))
            network = struct.pack("!IHBB", 6 << 28 | self.tos << 20, length, self.protocol,
                                  self.ttl) + addresses  # fmt: skip
            kind, start = b"\x86\xdd", 54
        else:
            addresses = bytes((10, 0, 0, 1, 10, 0, 0, 2))
            network = struct.pack("!BBHHHBBH", 0x45, self.tos, length + 20, ident & 0xFFFF,
                                  self.flags, self.ttl, self.protocol, 0) + addresses  # fmt: skip
            network = network[:10] + struct.pack("!H", checksum(network)) + network[12:]
            kind, start = b"\x08\x00", 34
        pseudo = ones_sum(addresses + struct.pack("!HBB", length, 0, 17))
        udp = struct.pack("!HHHH", 1000, self.port, length, pseudo)
        vnet = VNET.pack(self.vnet_flags, 0, 0, 0, start, 6)
        return vnet + self.target + bytes((2, 0, 0, 0, 0, 1)) + kind + network + udp + payload


def joined(frames: list[bytes]) -> list[bytes]:
    """What a worker's uplink makes of frames that wait together, in the way it reads them."""
    buffer, run, out = bytearray(400_000), FlowRun(), []
    end = 0
    for frame in frames:
        size, head = len(frame), run.size
        if head:
            run.scratch[: min(size, head)] = frame[:head]
            if run.takes(size):
                buffer[end : end + size - head] = frame[head:]
                end += size - head
                continue
            run.close(buffer)
            out.append(bytes(buffer[run.at : end]))
        buffer[end : end + size] = frame
        run.open(buffer, end, size)
        end += size
        if not run.size:
            out.append(frame)
    if run.size:
        run.close(buffer)
        out.append(bytes(buffer[run.at : end]))
    return out


def without_identification(frame: bytes) -> bytes:
    """RFC 6864: where DF is set the identification means nothing, nor what covers it."""
    if frame[NETWORK] >> 4 != 4:
        return frame
    ip = NETWORK
    return frame[: ip + 4] + bytes(2) + frame[ip + 6 : ip + 10] + bytes(2) + frame[ip + 12 :]


flows = st.builds(
    Flow,
    v6=st.booleans(),
    target=st.sampled_from((bytes((2, 0, 0, 0, 0, 2)), bytes((2, 0, 0, 0, 0, 3)))),
    port=st.sampled_from((2000, 2001)),
    ttl=st.sampled_from((64, 63)),
    tos=st.sampled_from((0, 0xB8)),
    flags=st.sampled_from((0x4000, 0x4000, 0)),
    protocol=st.sampled_from((17, 17, 6)),
    vnet_flags=st.sampled_from((1, 1, 0)),
)
bursts = st.lists(
    st.tuples(flows, st.integers(0, 40), st.integers(1, 6), st.integers(0, 0xFFFF)), max_size=8
)


@given(bursts)
def test_what_was_joined_comes_apart_as_it_was(burst: list[tuple[Flow, int, int, int]]) -> None:
    """10.12: frames come out as they went in, in their order, but for identifications under DF."""
    frames = [
        flow.frame(bytes((n,)) * size, ident + n)
        for flow, size, count, ident in burst
        for n in range(count)
    ]
    apart = [piece for whole in joined(frames) for piece in datagrams(whole)]
    assert list(map(without_identification, apart)) == list(map(without_identification, frames))


@pytest.mark.parametrize("v6", [False, True])
def test_equal_datagrams_become_one(v6: bool) -> None:
    flow = Flow(v6=v6)
    (whole,) = joined([flow.frame(bytes((n,)) * 100, n) for n in range(20)])
    flags, gso, header, size, start, offset = VNET.unpack_from(whole)
    assert (flags, gso, header, size) == (1, GSO_UDP_L4, flow.head - VNET_SIZE, 100)
    assert (start, offset) == (flow.head - VNET_SIZE - 8, 6)
    assert whole[flow.head :] == b"".join(bytes((n,)) * 100 for n in range(20))
    assert packet_size(whole, 0, len(whole)) == flow.head - NETWORK + 100
    network = whole[NETWORK : flow.head - 8]
    assert v6 or checksum(network) == 0, "the header's checksum is right"
    at = 4 if v6 else 2
    assert int.from_bytes(network[at : at + 2], "big") == len(whole) - NETWORK - (40 if v6 else 0)


def test_never_more_than_a_kernel_takes() -> None:
    """UDP_GRO_CNT_MAX, and 65,535 octets of packet."""
    small = joined([Flow().frame(b"x")] * (2 * MAX_SEGMENTS + 1))
    assert [len(whole) - SIZE4 for whole in small] == [MAX_SEGMENTS, MAX_SEGMENTS, 1]
    large = joined([Flow().frame(bytes(1400))] * 60)
    assert [len(datagrams(whole)) for whole in large] == [46, 14]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Flow(), Flow(port=7)),
        (Flow(), Flow(ttl=1)),
        (Flow(), Flow(tos=4)),
        (Flow(), Flow(target=bytes(6))),
        (Flow(flags=0), Flow(flags=0)),
        (Flow(flags=0x6000), Flow(flags=0x6000)),
        (Flow(vnet_flags=0), Flow(vnet_flags=0)),
        (Flow(protocol=6), Flow(protocol=6)),
        (Flow(v6=True), Flow(v6=True, tos=1)),
    ],
)
def test_what_stays_apart(one: Flow, other: Flow) -> None:
    """Another flow; identifications that mean something; fragments; checksums nobody checked."""
    frames = [one.frame(bytes(64)), other.frame(bytes(64))]
    assert joined(frames) == frames


def test_another_length_stays_apart() -> None:
    frames = [Flow().frame(bytes(64)), Flow().frame(bytes(65)), Flow().frame(b"")]
    assert joined(frames) == frames


@given(st.binary(min_size=VNET_SIZE, max_size=120))
def test_any_octets_are_left_alone_or_taken_apart_without_loss(octets: bytes) -> None:
    """What a peer sends and our kernel refused: never an error."""
    pieces = datagrams(octets)
    assert pieces == [octets] or sum(map(len, pieces)) >= len(octets)


@given(st.binary(min_size=24, max_size=120), st.binary(min_size=24, max_size=120))
def test_any_two_frames_are_joined_or_left_alone(one: bytes, other: bytes) -> None:
    assert b"".join(joined([one, other])) == one + other
