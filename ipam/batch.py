"""What must be durable before what: effects gathered, written together, then performed. Pure.

Who drives it: ``ipam.drivers.service``; in tests the simulator.

    add ... add --changes--> the store --written--> effects, in order
                                  ` failed--> refusals and the timer; the changes wait

Invariant (docs/ipam.md R20): nothing is answered, sent or published before all that was decided
until then is durable, and no digest shows what is not.
"""

from __future__ import annotations

from ipam.allocator import Allocator
from ipam.effects import Allocated, AllocatorEffect, Answer, Change, Persist, Refused
from mesh.effects import Arm


class Batch:
    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._effects: list[AllocatorEffect] = []
        self.changes: list[Change] = []
        """What is not on disk yet, over failed writes: in memory it has happened."""

    @property
    def is_empty(self) -> bool:
        return not self._effects

    def add(self, effects: list[AllocatorEffect]) -> None:
        self._effects += effects
        for effect in effects:
            if isinstance(effect, Persist):
                self.changes += effect.changes

    def written(self) -> list[AllocatorEffect]:
        """All changes are durable: what is to be performed now, in order."""
        self._allocator.saved(self.changes)
        self.changes = []
        effects, self._effects = self._effects, []
        return [e for e in effects if not isinstance(e, Persist)]

    def failed(self, reason: str) -> list[AllocatorEffect]:
        """Nothing could be written: nobody is given anything and nothing is said.

        What the core holds is ahead of the disk, so the changes wait: the next batch writes them
        too, or is not answered either. The timer runs on, for whoever waits. Gossip brings to the
        others what was not published.
        """
        effects, self._effects = self._effects, []
        kept: list[AllocatorEffect] = []
        for effect in effects:
            if isinstance(effect, Answer):
                gives = isinstance(effect.result, Allocated)
                kept.append(effect if not gives else Answer(effect.request, Refused(reason)))
            elif isinstance(effect, Arm):
                kept.append(effect)
        return kept
