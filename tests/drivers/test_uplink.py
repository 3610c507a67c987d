"""Frames off the TAP into records that fit the datagrams of a lossy path (protocol 10.2, 10.9).

A pair of SOCK_SEQPACKET sockets stands for the TAP: one read, one frame.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from mesh.clock import Instant
from mesh.drivers.sleeve.uplink import Uplink
from mesh.link.broadcast import Broadcasts
from mesh.link.peers import Peer, Peers
from mesh.link.records import frames_in
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import HEADER_SIZE, MAX_RECORD, TAG_SIZE, VNET, VNET_SIZE

US, A, B = ShortID(1), ShortID(2), ShortID(3)
OURS = bytes((2, 0, 0, 0, 0, 1))
SEGMENT = 1472
T0 = Instant(10.0)


class Sent:
    """Stands for the Sender."""

    def __init__(self) -> None:
        self.records: list[tuple[ShortID, bytes]] = []

    def record(self, peer: Peer, frames: memoryview) -> None:
        self.records.append((peer.short_id, bytes(frames)))

    def singles(self, peer: Peer, records: Sequence[memoryview]) -> None:
        for record in records:
            self.record(peer, record)

    def datagrams(self) -> list[int]:
        payload = SEGMENT - HEADER_SIZE
        return [-(-(len(record) + TAG_SIZE) // payload) for _, record in self.records]

    def frames(self) -> list[tuple[ShortID, bytes]]:
        return [
            (peer, bytes(frame))
            for peer, record in self.records
            for _, frame in frames_in(memoryview(record))
        ]


class Bench:
    def __init__(self) -> None:
        self.pod, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tap.setblocking(False)
        self.tap, self.sent, self.peers = tap, Sent(), Peers()
        self.peers.apply(w.Configure(US, PeerName(bytes(8)), 1420, encrypted=True))
        for n in (A, B):
            self.peers.apply(w.SetPeer(n, PeerName(bytes(7) + bytes((n,))), 1420))
            self.peers.apply(w.SetNeighbour(n, Endpoint("10.0.0.1", n), SEGMENT))
            self.peers.macs.learn(mac(n), n, T0)
            self.peers.peers[n].size.follow(n, SEGMENT)
        sender: object = self.sent
        self.uplink = Uplink(self.peers, tap.fileno(), sender, Broadcasts(1))  # type: ignore[arg-type]

    def lossy(self, *peers: ShortID) -> None:
        for peer in peers:
            for n in range(100):
                self.peers.peers[peer].size.reported(950, 50, Instant(T0 + n / 20))
            assert self.peers.peers[peer].size.datagrams == 1

    def read(self, *frames: bytes) -> None:
        for frame in frames:
            self.pod.send(frame)
        self.uplink.read(T0)


def mac(n: int) -> bytes:
    return bytes((2, 0, 0, 0, 1, n))


def small(to: ShortID, size: int, fill: int = 7) -> bytes:
    head = bytes(VNET_SIZE) + mac(to) + OURS + b"\x88\xb5"
    return head + bytes((fill,)) * (size - len(head))


def tcp(to: ShortID, segments: int, mss: int = 1348) -> bytes:
    payload = os.urandom(segments * mss)
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 40 + len(payload), 1, 0x4000, 64, 6, 0, 1, 2)
    head = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 500, 0, 0)
    vnet = VNET.pack(1, 1, 54, mss, 34, 16)
    return vnet + mac(to) + OURS + b"\x08\x00" + ip + head + payload


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.pod.close()
    made.tap.close()


def test_on_a_clean_path_all_that_waits_shares_a_record(bench: Bench) -> None:
    frames = [small(A, 700, n) for n in range(20)]
    bench.read(*frames)
    assert len(bench.sent.records) == 1
    assert bench.sent.frames() == [(A, frame) for frame in frames]


def test_on_a_lossy_path_frames_share_one_datagram_and_no_more(bench: Bench) -> None:
    bench.lossy(A)
    frames = [small(A, size, size % 251) for size in (60, 400, 600, 600, 60, 1300, 100, 90)]
    bench.read(*frames)
    assert bench.sent.frames() == [(A, frame) for frame in frames]
    assert bench.sent.datagrams() == [1, 1, 1, 1]


def test_a_segment_of_a_super_frame_is_a_record_of_one_datagram(bench: Bench) -> None:
    bench.lossy(A)
    whole = tcp(A, 30)
    bench.read(small(A, 100), whole, small(A, 100))
    assert set(bench.sent.datagrams()) == {1}
    pieces = [frame for _, frame in bench.sent.frames() if len(frame) > 100]
    assert b"".join(piece[VNET_SIZE + 54 :] for piece in pieces) == whole[VNET_SIZE + 54 :]
    assert len(pieces) == 30


@pytest.mark.parametrize("lossy", [(), (A,), (B,), (A, B)])
def test_frames_for_two_peers_stay_whole(bench: Bench, lossy: tuple[ShortID, ...]) -> None:
    bench.lossy(*lossy)
    whole = tcp(B, 20)
    bench.read(small(A, 100), whole, small(A, 1200), small(B, 1200), small(B, 1000))
    got = bench.sent.frames()
    assert [frame for peer, frame in got if peer == A] == [small(A, 100), small(A, 1200)]
    theirs = [frame for peer, frame in got if peer == B]
    assert theirs[-2:] == [small(B, 1200), small(B, 1000)]
    assert b"".join(piece[VNET_SIZE + 54 :] for piece in theirs[:-2]) == whole[VNET_SIZE + 54 :]
    assert all(len(record) <= MAX_RECORD for _, record in bench.sent.records)
