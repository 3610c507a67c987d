"""What was said of slices that contradicts what we know: lies, and two of one version. Pure.

Who drives it: ``ipam.ring``. A lie changes nothing and is answered by the owner; where an owner
contradicts itself, nobody gives anything of the range out any more (docs/ipam.md R5 to R7).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ipam.address import Address
from ipam.slices import EPOCH, Slice
from mesh.names import PeerName

MAX_CONFLICTS = 256
"""Contradictions kept as evidence; more come only from a peer that lies."""

FORGED, REUSED, COVERED = "slice-forged", "version-reused", "slice-covered"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Both sides of it, and who brought the other one."""

    held: Slice
    said: Slice
    reason: str
    source: PeerName

    @property
    def start(self) -> Address:
        return min(self.held.start, self.said.start)

    @property
    def end(self) -> Address:
        return max(self.held.end, self.said.end)


class Disputes(dict[Address, Conflict]):
    """By the start of what was said."""

    def add(self, conflict: Conflict) -> str:
        """Keep it, unless worse is known of that slice; its reason."""
        known = self.get(conflict.said.start)
        if known is None or known.reason == FORGED:
            self[conflict.said.start] = conflict
        if len(self) > MAX_CONFLICTS:
            forged = (at for at, c in self.items() if c.reason == FORGED)
            del self[next(forged, conflict.said.start)]
        return conflict.reason

    def over(self, address: Address) -> Conflict | None:
        """The one in which an address is disputed."""
        return next((c for c in self.values() if c.start <= address < c.end), None)

    def disputed(self, address: Address) -> bool:
        """Whether it is in a range that nothing is given from."""
        return any(c.start <= address < c.end for c in self.values() if c.reason == REUSED)

    def settle(self, said: Slice) -> None:
        """What is later than both sides ends it."""
        for start, conflict in list(self.items()):
            if said.version <= max(conflict.held.version, conflict.said.version):
                continue
            covers = said.start <= conflict.start and conflict.end <= said.end
            if covers or (conflict.reason == FORGED and said.start == start):
                del self[start]


def contradicted(said: Slice, under: Iterable[Slice], us: PeerName | None) -> Slice | None:
    """Of the earlier slices under it, one whose owner alone could have said this, and did not.

    ``us``: who made every version of what it owns, and knows them all; None while that memory is
    in question, for what is said may be what became of our slice since.
    """
    if said.takeover:
        return None
    for held in under:
        if said.issuer == held.owner or said.version // EPOCH != held.version // EPOCH:
            continue  # of a later epoch: whoever began it took over what we knew
        if said.version == held.version and said.issuer == held.issuer:
            continue  # its owner contradicts itself: a dispute, not a lie of another
        if said.version <= held.version + 1:
            return held  # the next version is its owner's to make
        if held.owner == us:
            return held
    return None
