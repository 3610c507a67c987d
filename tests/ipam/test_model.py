"""The model of the rules, explored whole, the shipped ring beside it. ipam.md R3, R4, R15, R17."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest

from ipam.address import Address, AddressRange
from ipam.ring import Ring
from ipam.slices import Slice
from mesh.clock import Instant
from tests.ipam.fakes import identity
from tests.ipam.model import Action, State, actions, after, block, first, owned, settled, wrong

NOW = Instant(0.0)
step = after


def explored(peers: int, addresses: int, depth: int) -> int:
    """Every state that so many actions lead to; how many there are."""
    begin = first(peers, addresses)
    seen, queue = {begin}, deque([(begin, 0)])
    while queue:
        state, steps = queue.popleft()
        assert wrong(state) == "", f"{wrong(state)} after {steps}: {state}"
        whole = settled(state)
        assert len({at for peer in range(peers) for at in owned(whole.views[0], peer)}) == addresses
        if steps < depth:
            for action in actions(state):
                following = step(state, action)
                if following not in seen:
                    seen.add(following)
                    queue.append((following, steps + 1))
    return len(seen)


@pytest.mark.parametrize(
    ("peers", "addresses", "depth"), [(2, 4, 9), (2, 16, 8), (3, 6, 6), (3, 12, 5), (4, 8, 4)]
)
def test_no_state_breaks_the_rules(peers: int, addresses: int, depth: int) -> None:
    assert explored(peers, addresses, depth) > 1000


def test_a_takeover_in_the_same_epoch_breaks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One version more is not enough: whoever lives on outruns it."""

    def careless(state: State, action: Action) -> State:
        done = after(state, action)
        if action.what != "take":
            return done
        views = list(done.views)
        views[action.peer] = tuple(
            (was[0], was[1], was[2] + 1, now[3], now[4]) if was != now else now
            for was, now in zip(state.views[action.peer], done.views[action.peer], strict=True)
        )
        return done._replace(views=tuple(views))

    monkeypatch.setitem(globals(), "step", careless)
    with pytest.raises(AssertionError, match=r"in one epoch|two owners"):
        explored(3, 6, 6)


class Rings:
    """The shipped ring of each peer, walked along with the model."""

    def __init__(self, peers: int, addresses: int) -> None:
        bits = 32 - addresses.bit_length() + 1
        self.range = AddressRange.parse(f"10.32.0.0/{bits}")
        people = [identity(bytes([n])) for n in range(peers)]
        # A taker's octets decide between rivals as its number does in the model.
        people.sort(key=lambda one: one.name)
        self.names = [one.name for one in people]
        self.rings = [Ring(one, self.range) for one in people]
        state = first(peers, addresses)
        shares = [len(owned(state.views[0], peer)) for peer in range(peers)]
        assert len(set(shares)) == 1
        self.rings[0].seed(b"c" * 16, self.names)
        for ring in self.rings[1:]:
            self._tell(self.rings[0], ring)

    @staticmethod
    def _tell(source: Ring, other: Ring) -> None:
        other.merge(source.items(source.digest()), source.us, NOW)
        other.take_changed()

    def follow(self, state: State, action: Action) -> None:
        what, one, other = action
        ring, start = self.rings[one], self.range.start
        if what == "tell":
            self._tell(ring, self.rings[other])
        elif what == "give":
            given = block(state.views[one], one)
            end = Address(start + given[-1] + 1)
            ring.give(Address(start + given[0]), end, self.names[other])
        elif what == "take":
            ring.take_over(self.names[other])

    def same_as(self, state: State) -> int:
        """The same owner, or nobody where a slice was cut and its owner has not said what is left
        of it (R3); how many of those there are."""
        unknown = 0
        for view, ring in zip(state.views, self.rings, strict=True):
            for at, belief in enumerate(view):
                held: Slice | None = ring.at(self.range.start + at)
                if held is None:
                    unknown += 1
                    continue
                assert self.names.index(held.owner) == belief[3], f"{at} of {ring.us}"
        return unknown


@pytest.mark.parametrize(("peers", "addresses"), [(2, 4), (2, 16), (4, 4), (4, 16)])
def test_the_shipped_ring_believes_what_the_model_does(peers: int, addresses: int) -> None:
    unknown = 0
    for seed in range(60):
        rng, state, rings = Random(seed), first(peers, addresses), Rings(peers, addresses)
        for _ in range(40):
            action = rng.choice(sorted(actions(state)))
            rings.follow(state, action)
            state = after(state, action)
            unknown += rings.same_as(state)
    assert unknown < 60 * 40 * peers * addresses // 50
