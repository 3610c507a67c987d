"""Records whose datagrams came out of order, interleaved, or not at all.

The fast path never comes here: a record whose datagrams arrive in one run is opened in place.
Bounds: so many unfinished records in all and per peer, so many octets, so many seconds. What is
over gives up the oldest, of the same peer where it is the peer's own bound; of these rather one of
which a single datagram came: who knows a tag may begin records that never end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
        self._begun: dict[Key, None] = {}
        """Those of them of which one datagram came, in the order they began."""
        self._per_peer: dict[ShortID, int] = {}
        self._octets = 0
        self._lost: Counter[ShortID] = Counter()
        self._torn: dict[ShortID, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._partial)

    def add(self, key: Key, total: int, pieces: Mapping[int, bytes], now: Instant) -> bytes | None:
        """Payloads of a record's datagrams, by index; the whole record's when none is missing."""
        partial = self._partial.get(key)
        if partial is None:
            if len(pieces) == total:
                return _in_order(pieces)
            self._make_room(key[0])
            partial = self._partial[key] = Partial(total, now)
            self._per_peer[key[0]] = self._per_peer.get(key[0], 0) + 1
        if partial.total != total:
            return None
        for index, piece in pieces.items():
            if index not in partial.pieces:
                partial.pieces[index] = piece
                partial.octets += len(piece)
                self._octets += len(piece)
        if len(partial.pieces) < total:
            if len(partial.pieces) == 1:
                self._begun[key] = None
            else:
                self._begun.pop(key, None)
            while self._octets > MAX_OCTETS:
                self._give_up(next(iter(self._partial)))
            return None
        self._drop(key)
        return _in_order(partial.pieces)

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
            oldest = next((k for k in self._begun if k[0] == peer), None)
            self._give_up(oldest or next(k for k in self._partial if k[0] == peer))
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
        self._begun.pop(key, None)
        left = self._per_peer[key[0]] - 1
        if left:
            self._per_peer[key[0]] = left
        else:
            del self._per_peer[key[0]]


def _in_order(pieces: Mapping[int, bytes]) -> bytes:
    return b"".join([pieces[n] for n in range(len(pieces))])
