"""Our own changes of the ring that are not durable yet, and what digests show instead. Pure.

Who drives it: ``ipam.ring``. A slice given away in memory alone must not be heard of: whoever
has it would use it, and a restart would have us own it still (docs/ipam.md R20).
"""

from __future__ import annotations

from collections.abc import Iterable

from ipam.address import Address
from ipam.slices import Slice


class Unsaved:
    def __init__(self) -> None:
        self._hidden: dict[Address, Slice | None] = {}
        self._before: dict[Address, Slice | None] = {}
        self.turns = 0
        """Counts what is hidden and saved."""

    def changes(self, start: Address, held: Slice | None) -> None:
        """What is known under a start is about to become something else."""
        if start not in self._hidden:
            self._before[start] = held

    def hide(self, changed: Iterable[Slice]) -> None:
        """Until ``saved``, show what was."""
        for piece in changed:
            self._hidden.setdefault(piece.start, self._before.get(piece.start))
        self._before.clear()
        self.turns += 1

    def saved(self, start: Address) -> None:
        if start in self._hidden:
            del self._hidden[start]
            self.turns += 1

    def __contains__(self, start: Address) -> bool:
        return start in self._hidden

    def shown(self, start: Address, held: Slice | None) -> Slice | None:
        return self._hidden.get(start, held)

    def starts(self) -> list[Address]:
        return list(self._hidden)
