"""The allocator: addresses by key, space by asking, a ring by election. Pure.

Who drives it: ``ipam.drivers.service``; in tests the simulator.

    allocate --have space--> Persist, Answer
        | none: ring empty --> election        (deferred until this first need)
        ` none: ring there --> REQUEST to one owner after another --> DONATE --> Persist, Answer

Invariants: an address is answered only behind the Persist that records it; a slice is given away
only behind the Persist that takes it from us; one key has one address.
"""

from __future__ import annotations

from ipam.address import Address
from ipam.core import Core
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    DropAllocation,
    Persist,
    Refused,
)
from ipam.requests import PATIENCE, Pending
from mesh.clock import Instant
from mesh.names import PeerName


class Allocator(Core):
    """What can be asked of it. Every order answers, now or later, under its request's number."""

    # ---- requests

    def allocate(self, request: int, key: AllocationKey, now: Instant) -> list[AllocatorEffect]:
        """An address for a key: the one it has, or the next free one."""
        effects: list[AllocatorEffect] = []
        if not self._answer_now(request, key, None, effects, now):
            self._wait(Pending(request, key, Instant(now + PATIENCE)), effects, now)
        return self._armed(effects, now)

    def claim(
        self,
        request: int,
        key: AllocationKey,
        address: Address,
        now: Instant,
        *,
        force: bool = False,
    ) -> list[AllocatorEffect]:
        """This very address for a key. ``force``: also one that is excluded here."""
        effects: list[AllocatorEffect] = []
        if not self._answer_now(request, key, address, effects, now, force=force):
            pending = Pending(request, key, Instant(now + PATIENCE), address, force)
            self._wait(pending, effects, now)
        return self._armed(effects, now)

    def free(self, request: int, key: AllocationKey, now: Instant) -> list[AllocatorEffect]:
        """The key's address is nobody's any more; fine too when it had none."""
        effects: list[AllocatorEffect] = []
        address = self.estate.drop(key, now)
        if address is not None:
            effects.append(Persist((DropAllocation(key),)))
        effects.append(Answer(request, Allocated(address)))
        return self._armed(effects, now)

    @property
    def allocations(self) -> dict[AllocationKey, Address]:
        return self.estate.allocations

    def holder_of(self, address: Address) -> AllocationKey | None:
        return self.estate.holders.get(address)

    def seed(
        self, request: int, owners: tuple[PeerName, ...], now: Instant
    ) -> list[AllocatorEffect]:
        """The operator says who divides the range: no election is needed."""
        if self.ring.is_seeded:
            return [Answer(request, Refused("already-seeded"))]
        changed = self.ring.seed(self._cluster_proposal, sorted({*owners, self.us}))
        effects = [*self._gained(changed, now, cluster=True), Answer(request, Allocated(None))]
        return self._armed(effects, now)

    def reclaim(
        self,
        request: int,
        peer: PeerName,
        now: Instant,
        *,
        force: bool = False,
        gaps: bool = False,
        rest: float | None = None,
    ) -> list[AllocatorEffect]:
        """Take over the space of a peer that is gone for good; refused while it is alive, and where
        most of the ring is out of reach, for there somebody else may do the same. ``rest``: how
        much longer it is to rest, where it is known to be gone for a while."""
        reason = self._why_no_takeover(peer, force, gaps)
        if reason is not None:
            return [Answer(request, Refused(reason))]
        changed = self.ring.take_over(peer, gaps=gaps)
        for piece in changed:
            self.space.rest_whole(piece.start, piece.end, now, rest, peer)
        effects = [*self._gained(changed, now), Answer(request, Allocated(None))]
        return self._armed(effects, now)

    def _why_no_takeover(self, peer: PeerName, force: bool, gaps: bool) -> str | None:
        ring = self.ring
        if peer == self.us or peer in self._reachable:
            return "peer-alive"
        if (reason := self._why_not_here()) is not None:
            return reason
        if peer not in ring.shares() and not (gaps and ring.gaps()):
            return "owns-nothing"
        most = force or ring.is_mostly([self.us, *self._reachable], peer)
        return None if most else "no-majority"

    def resolve(self, request: int, address: Address, now: Instant) -> list[AllocatorEffect]:
        """The operator says that what we hold of a disputed range is ours."""
        conflict = self.ring.conflicts.over(address)
        if conflict is None:
            return [Answer(request, Refused("not-disputed"))]
        changed = self.ring.resolve(conflict)
        if not changed:
            return [Answer(request, Refused("not-our-space"))]
        effects = [*self._gained(changed, now), Answer(request, Allocated(None))]
        return self._armed(effects, now)

    def survey(self, request: int, now: Instant) -> list[AllocatorEffect]:
        """Ask every peer in reach how it is with its addresses; answered in three seconds."""
        own = {self.us: self.report()}
        return self._armed(self._survey.begin(request, self._reachable, own, now), now)

    def leave(self, now: Instant) -> list[AllocatorEffect]:
        """Hand all our space to another peer, which must say that it is durable there."""
        effects: list[AllocatorEffect] = []
        self._leaves = True
        self._sure(effects, now)
        return self._armed(effects, now)

    def stay(self, now: Instant) -> list[AllocatorEffect]:
        """Leaving took too long and is called off."""
        self.leaving.give_up()
        self._leaves = False
        return self._armed([], now)
