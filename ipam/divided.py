"""Who owns what of a range by the slices that count, asked in several ways. Pure; ``ipam.ring``
fills it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ipam.address import Address, AddressRange
from ipam.overlay import Cover, Parts
from ipam.slices import Slice
from mesh.names import PeerName


class Divided:
    """``slices`` by their starts; a slice may lie in part under greater ones."""

    def __init__(self, range: AddressRange) -> None:
        self.range = range
        self.slices: dict[Address, Slice] = {}
        self._parts = Parts()
        self._by_owner: dict[PeerName, list[Slice]] = {}
        self._by_owner_at = 0
        """As of which change of the parts that was worked out: it is asked far more often."""

    def owned(self, owner: PeerName) -> list[Slice]:
        """What counts of a peer's slices: each as long as it is not overlaid."""
        return list(self._owned().get(owner, ()))

    def _owned(self) -> dict[PeerName, list[Slice]]:
        if self._by_owner_at != self._parts.changes:
            by_owner: dict[PeerName, list[Slice]] = {}
            for part in self._parts:
                if part.slice_start is None:
                    continue
                piece = self.slices[part.slice_start]
                if piece.start != part.start or piece.end != part.end:
                    piece = replace(piece, start=part.start, end=part.end)
                by_owner.setdefault(piece.owner, []).append(piece)
            self._by_owner, self._by_owner_at = by_owner, self._parts.changes
        return self._by_owner

    def at(self, address: int) -> Slice | None:
        """The slice that says whose an address is."""
        part = self._parts.at(address)
        return None if part is None or part.slice_start is None else self.slices[part.slice_start]

    def owner_of(self, address: int) -> PeerName | None:
        """Whom an address belongs to; None where no slice covers it."""
        piece = self.at(address)
        return None if piece is None else piece.owner

    def newer(self, start: Address, end: Address, version: int) -> list[Slice]:
        """Slices that say something later of a part of the range than this version does."""
        starts = {
            part.slice_start
            for part in self._parts.under(start, end)
            if part.slice_start is not None and part.stamp >> 64 > version
        }
        return [self.slices[at] for at in sorted(starts)]

    def owned_outside(
        self, owner: PeerName, known: Iterable[tuple[Address, Address]]
    ) -> list[Slice]:
        """Slices of a peer's that count somewhere outside of what it knows to be its own."""
        parts = Parts()
        for start, end in known:
            if start < end:
                whole = Cover(start, end, 0, None)
                parts.lay(start, end, [whole, *parts.under(start, end)])
        found = {}
        for part in self._parts:
            if part.slice_start is None or self.slices[part.slice_start].owner != owner:
                continue
            under = parts.under(part.start, part.end)
            if not (len(under) == 1 and under[0].start <= part.start and part.end <= under[0].end):
                found[part.slice_start] = self.slices[part.slice_start]
        return list(found.values())

    def shares(self) -> dict[PeerName, int]:
        """Addresses owned by each peer."""
        return {owner: sum(p.end - p.start for p in own) for owner, own in self._owned().items()}

    def is_mostly(self, peers: Iterable[PeerName], without: PeerName) -> bool:
        """Whether these own more than half of what is not ``without``'s."""
        shares = self.shares()
        total = sum(shares.values()) - shares.pop(without, 0)
        here = sum(shares.get(peer, 0) for peer in set(peers))
        return total == 0 or 2 * here > total

    def gaps(self) -> list[tuple[Address, Address]]:
        """Parts of the range of which nobody has said whose they are."""
        if not self.slices:
            return []
        bad, at = [], self.range.start
        for part in self._parts:
            if part.slice_start is None:
                continue
            if part.start != at:
                bad.append((at, part.start))
            at = part.end
        if at != self.range.end:
            bad.append((at, self.range.end))
        return bad
