"""What gives the allocator space of its own accord: a seed, a reclaim. docs/ipam.md 2."""

from __future__ import annotations

from random import Random

from ipam.address import AddressRange
from ipam.allocator import Allocator
from ipam.effects import Allocated, AllocationKey, AllocatorEffect, Answer, Persist, Refused
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.gossip.channel import Item

RANGE = AddressRange.parse("10.32.0.0/24")
ONE, TWO = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
NOW = Instant(1.0)


def allocator(identity: Identity, electors: int = 3) -> Allocator:
    return Allocator(identity, RANGE, Random(1), entropy_id=b"c" * 16, electors=electors)


def key(n: int) -> AllocationKey:
    return AllocationKey(f"c{n}", "eth0")


def answers(effects: list[AllocatorEffect]) -> dict[int, Allocated | Refused]:
    return {e.request: e.result for e in effects if isinstance(e, Answer)}


def test_a_seed_gives_space_at_once_and_serves_those_who_wait() -> None:
    """--seed on a host whose quorum is not there: nobody is elected, and nobody need be."""
    one = allocator(ONE)
    assert answers(one.allocate(1, key(1), NOW)) == {}
    effects = one.seed(2, (), NOW)
    given = answers(effects)
    assert isinstance(given[1], Allocated)
    assert given[1].address is not None
    assert given[2] == Allocated(None)
    assert isinstance(answers(one.allocate(3, key(3), NOW))[3], Allocated)
    durable = next(n for n, e in enumerate(effects) if isinstance(e, Persist))
    assert durable < next(n for n, e in enumerate(effects) if isinstance(e, Answer))
    assert answers(one.seed(4, (), NOW)) == {4: Refused("already-seeded")}


def test_what_is_reclaimed_serves_those_who_wait() -> None:
    one, two = allocator(ONE), allocator(TWO)
    two.seed(1, (), NOW)
    slices = two.ring.slices.values()
    one.ring.merge(
        [Item(piece.key, piece.stamp, two.ring.encoded(piece)) for piece in slices], TWO.name, NOW
    )
    one.peers({TWO.name: "two"}, NOW)
    one.allocate(1, key(1), NOW)
    assert answers(one.reclaim(2, TWO.name, NOW)) == {2: Refused("peer-alive")}
    one.peers({}, NOW)
    given = answers(one.reclaim(3, TWO.name, NOW))
    assert isinstance(given[1], Allocated)
    assert given[3] == Allocated(None)
    assert answers(one.reclaim(4, TWO.name, NOW)) == {4: Refused("owns-nothing")}
