"""Records whose datagrams came out of order, interleaved, or not at all.

The fast path never comes here: a record whose datagrams arrive in one run is opened in place.
Bounds: so many unfinished records in all and per peer, so many octets, so many seconds. What is
over gives up the oldest, of the same peer where it is the peer's own bound.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mesh.clock import Instant
from mesh.names import ShortID

MAX_PARTIAL = 256
MAX_PARTIAL_PER_PEER = 64
MAX_OCTETS = 16 * 1024 * 1024
AGE = 0.5
"""Seconds an unfinished record waits: more than paths reorder by, and soon enough for the sender to
learn of the loss while it is still sending."""

Key = tuple[ShortID, int, int]
"""(source, epoch, sequence number of the record)."""


@dataclass(slots=True)
class Partial:
    total: int
    since: Instant
    pieces: dict[int, bytes] = field(default_factory=dict)
    octets: int = 0
    is_torn: bool = False
    """Whether it was counted as torn already."""


class Reassembly:
    def __init__(self) -> None:
        self._partial: dict[Key, Partial] = {}
        self._per_peer: dict[ShortID, int] = {}
        self._octets = 0
        self._lost: Counter[ShortID] = Counter()
        self._torn: dict[ShortID, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._partial)

    def add(self, key: Key, index: int, total: int, piece: bytes, now: Instant) -> bytes | None:
        """One datagram's payload; the whole record's when this was the last one missing."""
        partial = self._partial.get(key)
        if partial is None:
            self._make_room(key[0])
            partial = self._partial[key] = Partial(total, now)
            self._per_peer[key[0]] = self._per_peer.get(key[0], 0) + 1
        if partial.total != total or index >= total or index in partial.pieces:
            return None
        partial.pieces[index] = piece
        partial.octets += len(piece)
        self._octets += len(piece)
        if len(partial.pieces) < total:
            while self._octets > MAX_OCTETS:
                self._give_up(next(iter(self._partial)))
            return None
        self._drop(key)
        return b"".join(partial.pieces[n] for n in range(total))

    def age(self, now: Instant) -> None:
        for key, partial in list(self._partial.items()):
            if now - partial.since < AGE:
                return
            self._give_up(key)

    def take_lost(self) -> Counter[ShortID]:
        """Records given up since the last call, by their source."""
        lost, self._lost = self._lost, Counter()
        return lost

    def take_torn(self, now: Instant, late: float) -> dict[ShortID, tuple[int, int]]:
        """(records, datagrams missing of them) by source: what has waited so long, or was given
        up, since the last call. They may still become whole; TCP has sent it again by then."""
        for key, partial in self._partial.items():
            if now - partial.since < late:
                break
            self._tear(key, partial)
        torn, self._torn = self._torn, {}
        return torn

    def forget(self, peer: ShortID) -> None:
        for key in [k for k in self._partial if k[0] == peer]:
            self._give_up(key)

    def _make_room(self, peer: ShortID) -> None:
        """Let one more record begin."""
        if self._per_peer.get(peer, 0) >= MAX_PARTIAL_PER_PEER:
            self._give_up(next(k for k in self._partial if k[0] == peer))
        if len(self._partial) >= MAX_PARTIAL:
            self._give_up(next(iter(self._partial)))

    def _give_up(self, key: Key) -> None:
        self._lost[key[0]] += 1
        self._tear(key, self._partial[key])
        self._drop(key)

    def _tear(self, key: Key, partial: Partial) -> None:
        if not partial.is_torn:
            partial.is_torn = True
            records, datagrams = self._torn.get(key[0], (0, 0))
            missing = partial.total - len(partial.pieces)
            self._torn[key[0]] = records + 1, datagrams + missing

    def _drop(self, key: Key) -> None:
        self._octets -= self._partial.pop(key).octets
        left = self._per_peer[key[0]] - 1
        if left:
            self._per_peer[key[0]] = left
        else:
            del self._per_peer[key[0]]
