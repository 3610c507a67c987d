"""What is ours: space by the ring, and who has which address of it. Pure.

Who drives it: ``ipam.allocator``. Invariant: a key has one address, an address one key.
"""

from __future__ import annotations

from ipam.address import Address, AddressRange
from ipam.changes import announced
from ipam.effects import AllocationKey, AllocatorEffect, Stored
from ipam.ring import Ring
from ipam.space import Space
from mesh.clock import Instant
from mesh.errors import MalformedMessageError


class Estate:
    """Raises MalformedMessageError when what was stored makes no sense."""

    def __init__(
        self,
        ring: Ring,
        range: AddressRange,
        space: Space,
        stored: Stored,
    ) -> None:
        self._ring = ring
        self.space = space
        self._freed = stored.freed
        self.allocations: dict[AllocationKey, Address] = dict(stored.allocations)
        if not all(address in range for address in self.allocations.values()):
            raise MalformedMessageError("an allocation outside the range")
        self.holders = {address: key for key, address in self.allocations.items()}
        self.space.used.update(self.holders)
        self.astray: set[Address] = set()
        """Addresses of containers here that are in another's space."""
        self.note()

    # ---- addresses

    def take(
        self, key: AllocationKey, wanted: Address | None, now: Instant, *, force: bool = False
    ) -> Address | str | None:
        """An address for a key that has none; why not, or None while there is none for it here."""
        if wanted is None:
            address = self.space.take(now)
        else:
            reason = self.space.take_this(wanted, now, force=force)
            if reason is not None:
                return None if reason == "not-our-space" else reason
            address = wanted
        if address is not None:
            self.allocations[key] = address
            self.holders[address] = key
        return address

    def drop(self, key: AllocationKey, now: Instant) -> Address | None:
        address = self.allocations.pop(key, None)
        if address is not None:
            del self.holders[address]
            self.space.release(address, now)
        return address

    # ---- space

    def start(self, now: Instant) -> None:
        """What was taken over and never divided since rests anew, and what was freed: nobody
        remembers for how long."""
        for piece in self._ring.owned(self._ring.us):
            if piece.takeover:
                self.space.rest_whole(piece.start, piece.end, now)
        self.space.rest_freed(self._freed, now)
        self._freed = ()
        self.look_astray()

    def note(self) -> bool:
        """Take note of what the ring says is ours; whether that is something else than before."""
        before, conflicts = self.space.slices, self._ring.conflicts.values()
        self.space.barred = [(c.start, c.end) for c in conflicts if c.reason == "version-reused"]
        self.space.own((s.start, s.end) for s in self._ring.owned(self._ring.us))
        return self.space.slices != before

    def look_astray(self) -> None:
        """Containers here whose addresses are not ours (any more): they have to be (R18)."""
        self.astray |= {a for a in self.holders if not self.space.owns(a)}

    def still_astray(self) -> set[Address]:
        self.astray = {a for a in self.astray if a in self.holders and not self.space.owns(a)}
        return self.astray

    def join(self) -> list[AllocatorEffect]:
        """Make one slice of neighbours of ours, but for what is disputed or rests (R9)."""
        disputed = self.space.is_disputed
        apart = [p.start for p in self._ring.owned(self._ring.us) if disputed(p.start)]
        changed = self._ring.join([*apart, *self.space.resting_starts])
        if changed:
            self.note()
        return announced(self._ring, changed)

    def defend(self) -> list[AllocatorEffect]:
        """Say again what is ours, above what was said of it by those who cannot know (R6)."""
        effects: list[AllocatorEffect] = []
        for conflict in list(self._ring.conflicts.values()):
            if conflict.reason == "slice-forged" and conflict.held.owner == self._ring.us:
                effects += announced(self._ring, self._ring.reassert(conflict.said))
        effects += announced(self._ring, self._ring.orphans())
        effects += announced(self._ring, self._ring.regained())
        if effects:
            self.note()
        return effects
