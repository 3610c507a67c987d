"""Who divides the range: those that promised and have this very range. protocol.md 12.3."""

from __future__ import annotations

from random import Random

from ipam.address import AddressRange
from ipam.allocator import Allocator
from ipam.effects import Allocated, AllocationKey, AllocatorEffect, Answer, Publish
from ipam.election import CHANNEL as ELECTION
from ipam.requests import GATHER, PROPOSE_INTERVAL
from mesh.clock import Instant
from mesh.crypto.identity import Identity

RANGE = AddressRange.parse("10.32.0.0/24")
OTHER = AddressRange.parse("10.48.0.0/24")
NOW = Instant(1.0)
LATER = Instant(1.0 + GATHER)
KEY = AllocationKey("c", "eth0")


def peer(n: int, range: AddressRange = RANGE, *, observer: bool = False) -> Allocator:
    identity = Identity.from_seed(bytes([n]) * 32)
    return Allocator(
        identity, range, Random(n), entropy_id=bytes([n]) * 16, electors=3, observer=observer
    )


def met(*peers: Allocator) -> tuple[Allocator, ...]:
    for one in peers:
        one.peers({other.us: "" for other in peers if other is not one}, NOW)
    return peers


def speak(peer: Allocator) -> None:
    """What a driver does: the vote is durable, and may be spoken."""
    if peer.election.own is not None:
        peer.election.saved(peer.election.own.encode())


def tell(source: Allocator, *others: Allocator, now: Instant = NOW) -> list[AllocatorEffect]:
    """The votes that one knows, to others; what these do of it, and why they refused."""
    effects: list[AllocatorEffect] = []
    speak(source)
    for other in others:
        other.election.merge(source.election.items(source.election.digest()), source.us, now)
        effects += other.channel_changed(ELECTION, now)
    return effects


def given(effects: list[AllocatorEffect]) -> list[Allocated]:
    return [e.result for e in effects if isinstance(e, Answer) and isinstance(e.result, Allocated)]


def test_all_that_promise_divide_the_range() -> None:
    one, two, three = met(peer(1), peer(2), peer(3))
    one.allocate(1, KEY, NOW)
    tell(one, two, three)
    assert given(tell(two, one)) == [], "the third may have promised as well"
    tell(three, one)
    tell(one, two, three)
    assert len(given(tell(two, one))) == 1
    assert set(one.ring.shares()) == {one.us, two.us, three.us}


def test_who_is_silent_is_not_waited_for_long_and_gets_no_slice() -> None:
    one, two, _ = met(peer(1), peer(2), peer(3))
    one.allocate(1, KEY, NOW)
    tell(one, two)
    tell(two, one)
    assert not one.ring.is_seeded
    one.handle_timer(LATER)
    tell(one, two)
    assert len(given(tell(two, one, now=LATER))) == 1
    assert set(one.ring.shares()) == {one.us, two.us}


def test_an_observer_gets_no_slice() -> None:
    one, two, three = met(peer(1), peer(2), peer(3, observer=True))
    one.allocate(1, KEY, NOW)
    assert tell(one, three)[:-1] == [], "it never votes"
    tell(one, two)
    tell(two, one)
    one.handle_timer(LATER)
    tell(one, two)
    tell(two, one, now=LATER)
    assert set(one.ring.shares()) == {one.us, two.us}


def test_who_has_another_range_neither_votes_nor_gets_a_slice_and_both_know_why() -> None:
    one, two, foreigner = met(peer(1), peer(2), peer(3, OTHER))
    one.allocate(1, KEY, NOW)
    speak(one)
    votes = one.election.items(one.election.digest())
    refused = foreigner.election.merge(votes, one.us, NOW).rejected
    assert [r.reason for r in refused] == ["range-mismatch"]
    said = foreigner.channel_changed(ELECTION, NOW)
    assert any(isinstance(e, Publish) and e.channel == ELECTION for e in said), "it shows its own"
    speak(foreigner)
    votes = foreigner.election.items(foreigner.election.digest())
    assert [r.reason for r in one.election.merge(votes, foreigner.us, NOW).rejected] == [
        "range-mismatch"
    ]
    one.channel_changed(ELECTION, NOW)
    tell(one, two)
    tell(two, one)
    one.handle_timer(LATER)
    tell(one, two)
    assert len(given(tell(two, one, now=LATER))) == 1
    assert set(one.ring.shares()) == {one.us, two.us}
    assert one.ring.gaps() == []


def test_a_ballot_under_way_is_given_time_by_those_who_need_space_too() -> None:
    """R10: sixty-four that need an address at once would put an end to each other's ballots for
    ever. Whose ballot it is may be gone: after a while somebody proposes all the same."""
    one, two = met(peer(1), peer(2))
    one.allocate(1, KEY, NOW)
    speak(one)
    two.election.merge(one.election.items(one.election.digest()), one.us, NOW)
    two.channel_changed(ELECTION, NOW)
    two.allocate(1, KEY, NOW)
    top = two.election.top
    assert top is not None
    assert top.proposer == one.us
    two.handle_timer(Instant(NOW + 0.4 * PROPOSE_INTERVAL))
    assert two.election.top == top
    two.handle_timer(Instant(NOW + 1.5 * PROPOSE_INTERVAL))
    assert two.election.top is not None
    assert two.election.top.proposer == two.us
