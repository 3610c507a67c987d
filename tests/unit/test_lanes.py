"""Several workers seen as one, and what they say to each other (docs/protocol.md 11.5).

Why it is built so: sleeve.md 2.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.clock import Instant
from mesh.errors import MalformedMessageError
from mesh.link.lanes import MAX_PENDING, Gathering
from mesh.link.macs import AGE, LOCAL, TELL_AGAIN, MacTable
from mesh.link.peers import Peers
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import bus
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher
from mesh.wire.sleeve import LANE_SHIFT
from tests.unit.test_sleeve_forwarding import Host, frame

A, B = ShortID(1), ShortID(2)
MAC = bytes((2, 0, 0, 0, 0, 9))


def test_an_epoch_is_installed_when_every_lane_has_it() -> None:
    """11.5: its records may come to any lane, so the other end must not use it before."""
    gathering = Gathering(3)
    said = w.EpochInstalled(A, 7)
    assert gathering.take(0, said) is None
    assert gathering.take(0, said) is None, "twice by one lane is not two lanes"
    assert gathering.take(2, said) is None
    assert gathering.take(1, said) == said
    assert gathering.take(1, said) is None, "said once"


def test_what_never_becomes_whole_is_bounded() -> None:
    gathering = Gathering(2)
    for epoch in range(3 * MAX_PENDING):
        gathering.take(0, w.EpochInstalled(ShortID(epoch % 4096), epoch))
    assert gathering.take(1, w.EpochInstalled(ShortID(0), 0)) is None, "given up"
    last = 3 * MAX_PENDING - 1
    assert gathering.take(1, w.EpochInstalled(ShortID(last % 4096), last)) is not None


def test_counters_are_added_up() -> None:
    gathering = Gathering(2)
    ours = w.PeerCounters(A, 5, 6, 1, 1, 1, 1, 9, 3, 2, 4, 500, 62_000)
    theirs = (w.PeerCounters(A, 1, 1, record_limit=1400), w.PeerCounters(B, 2, 3))
    dropped = ((A, "no-key", 2), (B, "replayed", 1))
    one = w.Counters(1, 10, 2, 20, 3, (("no-route", 1),), (ours,), ((A, "no-key", 3),))
    other = w.Counters(4, 40, 5, 50, 6, (("no-route", 2), ("loop", 1)), theirs, dropped)
    assert gathering.take(0, one) is None
    both = (w.PeerCounters(A, 6, 7, 1, 1, 1, 1, 9, 3, 2, 4, 500, 1400), theirs[1])
    drops = (("loop", 1), ("no-route", 3))
    each = ((A, "no-key", 5), (B, "replayed", 1))
    assert gathering.take(1, other) == w.Counters(5, 50, 7, 70, 9, drops, both, each)


def test_addresses_are_united() -> None:
    gathering = Gathering(2)
    assert gathering.take(1, w.Macs(((1, A), (2, B)), 2)) is None
    assert gathering.take(0, w.Macs(((2, B), (3, A)), 2)) == w.Macs(((1, A), (2, B), (3, A)), 2)


def test_probes_are_of_lane_0_and_the_rest_of_all() -> None:
    gathering = Gathering(3)
    assert list(gathering.lanes_for(w.Probe(A, 1, 64))) == [0]
    assert list(gathering.lanes_for(w.DropPeer(A))) == [0, 1, 2]


def test_what_one_lane_says_of_a_path_is_said_at_once() -> None:
    said = w.ProbeSeen(A, Endpoint("10.0.0.1", 6783))
    assert Gathering(4).take(0, said) == said


@given(st.binary(min_size=6, max_size=6), st.integers(0, 0xFFFF), st.binary(max_size=300))
def test_the_bus_carries_what_it_was_given(mac: bytes, place: int, octets: bytes) -> None:
    for message in (
        bus.Learned(mac, ShortID(place)),
        bus.Spread(octets),
        bus.Reported(ShortID(place), octets),
    ):
        assert bus.decode(bus.encode(message)) == message


@given(st.binary(max_size=40))
def test_nonsense_on_the_bus_is_malformed(octets: bytes) -> None:
    try:
        message = bus.decode(octets)
    except MalformedMessageError:
        return
    assert bus.encode(message) == octets


def test_no_message_of_no_octets() -> None:
    with pytest.raises(MalformedMessageError):
        bus.decode(b"")


def test_what_was_learned_is_news_once_and_again_while_it_lives() -> None:
    macs = MacTable()
    macs.learn(MAC, A, Instant(0.0))
    macs.learn(bytes((2, 0, 0, 0, 0, 8)), LOCAL, Instant(0.0), told=True)
    assert macs.news == [(MAC, A)], "what we were told is no news of ours"
    macs.news.clear()
    macs.touched.add(MAC)
    macs.age(Instant(TELL_AGAIN))
    assert macs.news == [(MAC, A)]
    macs.news.clear()
    macs.age(Instant(2 * TELL_AGAIN))
    assert macs.news == [], "not seen since"
    macs.age(Instant(TELL_AGAIN + AGE))
    assert MAC not in macs.places


@pytest.mark.parametrize("lane", [0, 3, 255])
def test_no_two_lanes_use_a_number(lane: int) -> None:
    """10.4, 11.5: the first octet of a number is its lane, sealed or not."""
    peers = Peers(lane)
    peers.apply(w.Configure(A, PeerName(bytes(8)), 1420, True))
    peers.apply(w.SetPeer(B, PeerName(bytes(7) + b"2"), 1420))
    peers.apply(w.InstallEpoch(B, 1, bytes(32), b"k" * 32, 1, 2, Cipher.AES_256_GCM))
    peer = peers.peers[B]
    assert peer.tx[1].seq >> LANE_SHIFT == peer.plain_seq >> LANE_SHIFT == lane
    peer.tx[1].seq += 1_000_000
    peers.apply(w.InstallEpoch(B, 2, bytes(32), b"l" * 32, 3, 4, Cipher.AES_256_GCM))
    peers.apply(w.RetireEpoch(B, 1))
    peers.apply(w.InstallEpoch(B, 3, bytes(32), b"m" * 32, 5, 6, Cipher.AES_256_GCM))
    assert peer.tx[3].seq >> LANE_SHIFT == lane


def test_numbers_of_one_lane_are_no_replays_of_another_s() -> None:
    """10.4: each lane counts by itself, so each has a window of its own."""
    ours, theirs = Host(A, B), Host(B, A)
    first = ours.datagrams(B, b"\0\0\0\x2a" + frame(MAC, MAC), size=1400)
    ours.peers.peers[B].tx[1].seq = 5 << LANE_SHIFT
    other = ours.datagrams(B, b"\0\0\0\x2a" + frame(MAC, MAC), size=1400)
    theirs.take(*other, *first, *other, *first)
    assert theirs.drops["replayed"] == 2
    assert "unauthentic" not in theirs.drops


def test_a_worker_that_is_not_lane_0_hands_broadcasts_over() -> None:
    """11.5: one lane sends all broadcasts of its host."""
    host = Host(A, B)
    handed: list[bytes] = []
    host.out._hand_over = handed.append
    whole = frame(b"\xff" * 6, MAC)
    assert host.from_pod(whole) is None
    assert handed == [whole]
    assert host.sent == []
