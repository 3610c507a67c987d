"""Topology records: octets, the one encoding, signatures."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.crypto.identity import SIGNATURE_SIZE
from mesh.errors import MalformedMessageError
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
from mesh.topology.record import MAX_EDGES, MAX_VERSION, Edge, Label, Record
from tests.sim.views import edge, identity, name, record

OTHER = PeerName(bytes.fromhex("1122334455667788"))
SMALL = Record(
    identity(1).public_key,
    PeerUID(0x0102),
    3,
    ShortID(0xABC),
    1420,
    "n",
    "p",
    ("sleeve",),
    (("k", "v"),),
    (Edge(OTHER, 500, True, 1400, Endpoint("10.0.0.9", 6783)),),
)
SMALL_OCTETS = (
    "01" + identity(1).public_key.hex() + "0000000000000102 0000000000000003 0abc 058c"
    "0001 6e 0001 70  01 0006 736c65657665  01 0001 6b 0001 76"
    "0001 1122334455667788 000001f4 01 0578 0008 31302e302e302e39 1a7f"
)


def with_edges(*edges: Edge) -> Record:
    return replace(SMALL, edges=edges)


def test_octets() -> None:
    """protocol.md 7.1: a record, octet for octet, before its signature."""
    assert SMALL.signed_part() == bytes.fromhex(SMALL_OCTETS)
    data = bytes.fromhex(SMALL_OCTETS) + bytes(SIGNATURE_SIZE)
    assert Record.decode(data) == SMALL
    assert SMALL.stamp == (3 << 64) | 0x0102
    assert SMALL.name == identity(1).name
    assert SMALL.problem == ""


def test_signature_covers_every_octet() -> None:
    """protocol.md 7.1: whoever alters any octet of a record breaks its signature."""
    data = SMALL.signed(identity(1)).encode()
    label = Label.of(data)
    assert label.is_genuine(data)
    assert (label.name, label.stamp) == (SMALL.name, SMALL.stamp)
    for place in range(len(data)):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert not label.is_genuine(altered)
    assert not SMALL.signed(identity(2)).is_genuine()
    assert SMALL.signed(identity(1)).is_genuine()


def test_cut_short_or_followed_by_more() -> None:
    data = SMALL.encode()
    for size in range(len(data)):
        with pytest.raises(MalformedMessageError):
            Record.decode(data[:size])
    with pytest.raises(MalformedMessageError):
        Record.decode(data + b"\0")
    with pytest.raises(MalformedMessageError):
        Label.of(data[:50])
    with pytest.raises(MalformedMessageError):
        Label.of(b"\x02" + data[1:])


@pytest.mark.parametrize(
    "bad",
    [
        replace(SMALL, version=MAX_VERSION + 1),
        replace(SMALL, short_id=ShortID(4096)),
        replace(SMALL, nickname="n" * 256),
        replace(SMALL, nickname="\x1b[2J"),
        replace(SMALL, program="a\nb"),
        replace(SMALL, overlays=("x",) * 33),
        replace(SMALL, overlays=("x" * 33,)),
        replace(SMALL, features=(("k" * 65, ""),)),
        with_edges(edge(2), edge(2)),
        with_edges(*sorted((edge(2), edge(3)), key=lambda e: e.peer, reverse=True)),
        with_edges(edge(1)),
        with_edges(edge(2, host="example.org")),
        with_edges(edge(2, host="fe80::1%eth0")),
        with_edges(edge(2, host="[::1]")),
        with_edges(edge(2, host="0.0.0.0")),
        with_edges(replace(edge(2), endpoint=Endpoint("10.0.0.1", 0))),
        with_edges(*(Edge(PeerName(n.to_bytes(8, "big")), 1, True, 1, None) for n in range(1001))),
    ],
    ids=[
        "version",
        "short ID",
        "long nickname",
        "escape",
        "newline",
        "overlays",
        "long overlay",
        "long feature",
        "edge twice",
        "unsorted",
        "own edge",
        "host name",
        "zone",
        "brackets",
        "unspecified",
        "host without port",
        "edges",
    ],
)
def test_refused(bad: Record) -> None:
    """protocol.md 7.1: one encoding, texts that can be shown, endpoints that are addresses."""
    with pytest.raises(MalformedMessageError):
        Record.decode(bad.encode())
    assert bad.problem != ""
    assert Record.decode(SMALL.encode()) == SMALL


def test_overlays_of_an_edge_are_two_bits() -> None:
    """protocol.md 7.1: sleeve and fastdp, up or not; there is one encoding of a record."""
    data = SMALL.encode()
    place = data.index(bytes.fromhex("000001f4 01")) + 4
    found = []
    for octet in range(4):
        (edge_,) = Record.decode(data[:place] + bytes((octet,)) + data[place + 1 :]).edges
        found.append((edge_.established, edge_.kernel))
    assert found == [(False, False), (True, False), (False, True), (True, True)]
    with pytest.raises(MalformedMessageError):
        Record.decode(data[:place] + b"\x04" + data[place + 1 :])


def test_the_largest_record_is_read() -> None:
    edges = tuple(Edge(PeerName(n.to_bytes(8, "big")), 1, True, 1, None) for n in range(MAX_EDGES))
    assert Record.decode(with_edges(*edges).encode()).edges == edges


texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
addresses = st.one_of(
    st.ip_addresses().map(str).filter(lambda a: a not in ("0.0.0.0", "::")).map(str),
)
endpoints = st.none() | st.builds(Endpoint, addresses, st.integers(1, 65535))
edges = st.builds(
    Edge,
    st.integers(2, 9).map(name),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.integers(0, 65535),
    endpoints,
)
records = st.builds(
    Record,
    st.just(identity(1).public_key),
    st.integers(0, 2**64 - 1).map(PeerUID),
    st.integers(0, MAX_VERSION),
    st.none() | st.integers(1, 4095).map(ShortID),
    st.integers(0, 65535),
    texts,
    texts,
    st.lists(st.text("abc", max_size=8), max_size=3).map(tuple),
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    st.lists(edges, unique_by=lambda e: e.peer, max_size=8).map(
        lambda found: tuple(sorted(found, key=lambda e: e.peer))
    ),
    st.binary(min_size=64, max_size=64),
)


@given(records)
def test_round_trip(of: Record) -> None:
    """protocol.md 7.1: what encode writes decode reads."""
    assert Record.decode(of.encode()) == of


@given(records, st.data())
def test_noise(of: Record, data: st.DataObject) -> None:
    """protocol.md 7.1: damaged records are refused in the one way, or read as one encoding."""
    octets = bytearray(of.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = Record.decode(bytes(octets))
    except MalformedMessageError:
        return
    assert read.encode() == octets


def test_builders_make_genuine_records() -> None:
    assert record(4, 9, [edge(5)]).is_genuine()
