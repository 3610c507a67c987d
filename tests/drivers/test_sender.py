"""Records onto a real socket, and what arrives at another (docs/protocol.md 10.2, 10.9)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from mesh.drivers.sleeve.sender import Sender
from mesh.link.records import unicast_record
from mesh.names import Endpoint, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import HEADER_SIZE, TOTAL_AT
from tests.unit.test_sleeve_forwarding import FAR, POD, A, Host, frame

US = ShortID(1)
SEGMENT = 1472


class Wire:
    """A host that sends to another over loopback."""

    def __init__(self, *, encrypted: bool) -> None:
        self.ours, self.theirs = (Host(n, m, encrypted=encrypted) for n, m in ((US, A), (A, US)))
        self.source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.target = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.target.bind(("127.0.0.1", 0))
        self.target.settimeout(5)
        port = self.target.getsockname()[1]
        self.ours.peers.apply(w.SetNeighbour(A, Endpoint("127.0.0.1", port), SEGMENT))
        self.sender = Sender(self.ours.peers, self.source.fileno(), socket.AF_INET, lambda *_: None)

    def take(self, count: int) -> list[bytes]:
        datagrams = [self.target.recv(1 << 16) for _ in range(count)]
        self.theirs.take(*datagrams)
        return datagrams

    def close(self) -> None:
        self.source.close()
        self.target.close()


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    made = Wire(encrypted=request.param)
    yield made
    made.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from((0, 1, 30, 500, 1300)), min_size=1, max_size=80))
def test_records_of_one_datagram_share_calls_and_nothing_else(wire: Wire, sizes: list[int]) -> None:
    """10.9: each is whole by itself, whatever of the others is lost; none is reordered."""
    frames = [frame(FAR, POD, bytes((n,)) * size) for n, size in enumerate(sizes)]
    wire.theirs.written.clear()
    peer = wire.ours.peers.peers[A]
    wire.sender.singles(peer, [unicast_record(whole) for whole in frames])
    datagrams = wire.take(len(frames))
    assert {datagram[TOTAL_AT] for datagram in datagrams} == {1}
    assert wire.theirs.written == frames
    assert wire.theirs.drops == wire.ours.drops == {}


def test_a_record_that_is_larger_is_sent_all_the_same(wire: Wire) -> None:
    frames = [frame(FAR, POD, b"x" * size) for size in (3000, 3000, 10)]
    wire.sender.singles(wire.ours.peers.peers[A], [unicast_record(whole) for whole in frames])
    datagrams = wire.take(7)
    assert max(map(len, datagrams)) == SEGMENT
    assert wire.theirs.written == frames


def test_records_of_all_sizes_take_turns(wire: Wire) -> None:
    """10.2: one layout serves them all; what stands in it from before is not sent."""
    peer = wire.ours.peers.peers[A]
    for size in (10, 60_000, 1400, 60_000, 2000, 10, 9000):
        whole = frame(FAR, POD, bytes((size % 251,)) * size)
        record = unicast_record(whole)
        overhead = 0 if peer.active is None else 16
        wire.sender.record(peer, record)
        wire.take(-(-(len(record) + overhead) // (SEGMENT - HEADER_SIZE)))
        assert wire.theirs.written.pop() == whole
    assert wire.theirs.drops == {}
