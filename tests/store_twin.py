"""The twin of ``ipam.drivers.store`` in memory: what survives a kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ipam.address import Address
from ipam.effects import (
    AllocationKey,
    Change,
    DropAllocation,
    DropSlice,
    Persist,
    SetAllocation,
    SetCluster,
    SetSlice,
    SetVote,
    Stored,
)


@dataclass
class MemoryStore:
    cluster: bytes | None = None
    vote: bytes | None = None
    slices: dict[Address, bytes] = field(default_factory=dict)
    allocations: dict[AllocationKey, Address] = field(default_factory=dict)
    freed: dict[Address, None] = field(default_factory=dict)

    def apply(self, effect: Persist) -> None:
        """One transaction."""
        self.write(effect.changes)

    def write(self, changes: Sequence[Change]) -> None:
        for change in changes:
            match change:
                case SetCluster(cluster):
                    self.cluster = cluster
                case SetVote(octets):
                    self.vote = octets
                case SetSlice(start, octets):
                    self.slices[start] = octets
                case DropSlice(start):
                    self.slices.pop(start, None)
                case SetAllocation(key, address):
                    assert key not in self.allocations, "a key stored twice"
                    assert address not in self.allocations.values(), "an address stored twice"
                    self.allocations[key] = address
                    self.freed.pop(address, None)
                case DropAllocation(key):
                    gone = self.allocations.pop(key, None)
                    if gone is not None:
                        self.freed.pop(gone, None)
                        self.freed[gone] = None

    def stored(self) -> Stored:
        slices = tuple(octets for _, octets in sorted(self.slices.items()))
        return Stored(self.cluster, self.vote, slices, dict(self.allocations), tuple(self.freed))
