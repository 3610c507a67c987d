"""What was said of the rest of a range before a shorter slice took its beginning. Pure.

Who drives it: ``ipam.ring``. Until somebody speaks for the rest, what is older does not count there
(docs/ipam.md R3). Whoever owns it may never have heard what lies on it, when that was replaced on
the way: so it is kept, and shown to whom it concerns (R6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ipam.slices import Slice
from mesh.names import PeerName

SPARE = 64
"""Slices kept beyond those that still lie on something, before these are looked for."""

MAX_UNHEARD = 256
"""Owners to be told at a time: more come only from a peer that lies."""


class Shortened:
    def __init__(self) -> None:
        self._kept: dict[int, Slice] = {}
        self._room = SPARE
        self._unheard: list[tuple[PeerName, Slice]] = []

    def keep(self, piece: Slice, stamps: Callable[[], Iterable[int]]) -> None:
        """``stamps``: those under which some range is nobody's now."""
        self._kept[piece.stamp] = piece
        if len(self._kept) > self._room:
            live = {piece.stamp, *stamps()}
            self._kept = {stamp: kept for stamp, kept in self._kept.items() if stamp in live}
            self._room = 2 * len(self._kept) + SPARE

    def under(self, stamps: Iterable[int]) -> Slice | None:
        """What was said under one of these, if it is kept."""
        return next((self._kept[stamp] for stamp in stamps if stamp in self._kept), None)

    def tell(self, owner: PeerName, piece: Slice) -> None:
        """This lies on what somebody believes to own."""
        if len(self._unheard) < MAX_UNHEARD:
            self._unheard.append((owner, piece))

    def take_unheard(self) -> list[tuple[PeerName, Slice]]:
        """(owner, what it should hear)."""
        unheard, self._unheard = self._unheard, []
        return unheard
