"""What was forgotten, so that nobody teaches it again (docs/protocol.md 7.3).

Who had been parted forget the same dead peer at different times, and each would learn it anew from
those who still speak of it, in a circle, for ever. So a version that was forgotten is held again
only when it leads to somebody who is reachable with it: a peer that was away and kept its record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from mesh.names import PeerName
from mesh.topology.record import Record

MAX_FORGOTTEN = 4096
"""Versions remembered, the latest: as many as records are held."""

_UID = (1 << 64) - 1
"""The part of a stamp that is the UID."""


class Forgotten:
    def __init__(self) -> None:
        self._stamps: OrderedDict[bytes, int] = OrderedDict()

    def add(self, key: bytes, stamp: int) -> None:
        self._stamps[key] = stamp
        self._stamps.move_to_end(key)
        if len(self._stamps) > MAX_FORGOTTEN:
            self._stamps.popitem(last=False)

    def has(self, key: bytes, stamp: int) -> bool:
        """Whether this version, or a later one of the same start of the peer, was forgotten."""
        known = self._stamps.get(key)
        return known is not None and stamp <= known and stamp & _UID == known & _UID


def reached(records: Mapping[PeerName, Record], roots: Iterable[PeerName]) -> set[PeerName]:
    """Who is reachable from ``roots`` over edges that both ends list."""
    beside = {name: {edge.peer for edge in record.edges} for name, record in records.items()}
    todo = [name for name in roots if name in beside]
    found = set(todo)
    while todo:
        here = todo.pop()
        for other in beside[here] - found:
            if here in beside.get(other, ()):
                found.add(other)
                todo.append(other)
    return found
