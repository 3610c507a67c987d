"""The story every seed of ``make sim`` runs, in small; and proof that its assertions can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ipam.address import Address
from ipam.allocator import Allocator
from ipam.election import Election
from ipam.ring import Ring, Slice
from mesh.errors import MisuseError
from mesh.gossip.engine import Gossip
from mesh.names import PeerName, ShortID
from mesh.router.router import Router
from mesh.topology import topology
from mesh.topology.routes import Routes
from mesh.topology.topology import Topology
from tests.sim.host import SimHost
from tests.sim.mesh import MemoryStore, SimMesh, story
from tests.sim.network import SimNetwork

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_mesh_in_trouble_comes_back_whole(seed: int) -> None:
    story(seed, peers=8, steps=20)


def test_a_seed_replays_octet_for_octet() -> None:
    first, again = story(5, peers=5, steps=12), story(5, peers=5, steps=12)
    assert first.digest() == again.digest()
    assert first.network.octets == again.network.octets
    assert story(6, peers=5, steps=12).digest() != first.digest()


def test_trouble_really_happens() -> None:
    """A story in which nothing was cut, killed or restarted would prove nothing."""
    seen: set[str] = set()

    class Watched(SimMesh):
        def kill(self, host: SimHost) -> None:
            seen.add("kill")
            super().kill(host)

    class WatchedNetwork(SimNetwork):
        def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
            seen.add("cut")
            super().cut(a, b, one_way=one_way)

        def heal(self) -> None:
            seen.add("heal")
            super().heal()

    mesh = Watched(11, peers=6)
    mesh.network.__class__ = WatchedNetwork
    mesh.join(fences=2)
    mesh.churn(60)
    assert seen == {"kill", "cut", "heal"}
    assert mesh.ledger.answers > 3


# ---- planted bugs: each must make the story fail


def short_trees(patch: pytest.MonkeyPatch) -> None:
    """Broadcasts end at the originator's neighbours."""
    whole = Routes.broadcast

    def careless(self: Routes, origin: PeerName) -> tuple[PeerName, ...]:
        return whole(self, origin) if origin == self.us else ()

    patch.setattr(Routes, "broadcast", careless)


def forgetful_store(patch: pytest.MonkeyPatch) -> None:
    """Allocations answered without being durable."""
    patch.setattr(MemoryStore, "apply", lambda _self, _effect: None)


def lone_quorum(patch: pytest.MonkeyPatch) -> None:
    """Every elector decides by itself."""
    init = Election.__init__

    def alone(self: Election, identity: Any, range: Any, quorum: int, stored: Any = None) -> None:
        init(self, identity, range, 1, stored)

    patch.setattr(Election, "__init__", alone)


def donor_keeps(patch: pytest.MonkeyPatch) -> None:
    """A donor goes on giving out what it gave away."""
    patch.setattr(Allocator, "_own_space", keep_space)


def keep_space(self: Allocator) -> None:
    ours = {(s.start, s.end) for s in self.ring.owned(self.us)}
    self.space.own(sorted(ours | set(self.space._slices)))


def never_overtakes(patch: pytest.MonkeyPatch) -> None:
    """A restarted peer does not overtake what the mesh remembers of it."""
    patch.setattr(Topology, "_overtake", lambda *_args: None)


def stubborn_short_ids(patch: pytest.MonkeyPatch) -> None:
    """Nobody gives a short ID up."""
    patch.setattr(topology, "choose", lambda _us, _current, _others, _rng: ShortID(7))


def silent_relays(patch: pytest.MonkeyPatch) -> None:
    """News stay with whoever hears them, and digests are never compared."""
    patch.setattr(Router, "_relay", lambda _self, _source: ())
    patch.setattr(Gossip, "_compare_with", lambda _self, _count: [])


def slices_overlap(patch: pytest.MonkeyPatch) -> None:
    """A slice stays as long as it was when its upper part is given away.

    That a donation does not raise the version is no bug to plant here: the owner hears of the
    contradiction and says what is true again, above both.
    """
    give = Ring.give

    def careless(self: Ring, start: Address, end: Address, to: PeerName) -> list[Slice]:
        held = next(s for s in self.owned(self.us) if s.start <= start < end <= s.end)
        changed = give(self, start, end, to)
        if held.start < start:
            changed[0] = self._set(replace(held, version=held.version + 1))
        return changed

    patch.setattr(Ring, "give", careless)


@pytest.mark.parametrize(
    "plant",
    [
        short_trees,
        forgetful_store,
        lone_quorum,
        donor_keeps,
        never_overtakes,
        stubborn_short_ids,
        silent_relays,
        slices_overlap,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_fails_the_story(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    settle = SimMesh.settle
    monkeypatch.setattr(SimMesh, "settle", lambda self: settle(self, within=60.0, step=6.0))
    with pytest.raises((AssertionError, MisuseError)):  # noqa: PT012  # whichever seed shows it
        for seed in (1, 2, 3, 4):
            story(seed, peers=6, steps=25)
