"""After a start: is what we remember still true? Pure.

Who drives it: ``ipam.allocator``.

    start --> waiting --every peer in reach answered VERIFY--> sure
                 ` nobody in reach for ALONE seconds: goes on, and asks as soon as somebody is

A host comes back from the dead, from an old snapshot, or after its space was taken over: what its
disk says was true once. Until somebody has told what is newer, nothing is given out, and what an
answer says of our own slices is believed (docs/ipam.md R17, R18).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from typing import TYPE_CHECKING

from ipam.address import Address
from ipam.effects import AllocatorEffect, SendTo
from ipam.messages import MAX_EXTENTS, Extent, Message, MessageKind
from ipam.ring import Ring
from mesh.clock import Instant
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random

ALONE = 10.0
"""Seconds that a start waits for company it has had: connecting takes less."""

ASK_AGAIN = 1.0
"""Seconds until a peer that has not answered is asked once more."""

SILENCE = 30.0
"""Seconds after which peers that are in reach and do not answer are not waited for any longer:
they are of a version that does not know the question."""

BATCH = 256
"""Slices of one answer; whoever gets so many asks again."""

Ranges = tuple[tuple[Address, Address], ...]


class Return:
    """Invariant: while ``is_waiting``, nothing is allocated, donated or handed over."""

    def __init__(self, ring: Ring, rng: Random) -> None:
        self._ring, self._rng = ring, rng
        self.is_waiting = False
        self.until: Instant | None = None
        """When to ask again, or to go on."""
        self._began = Instant(0.0)
        self.is_open = False
        """Somebody may still tell us that what we remember is old."""
        self._must_meet = False
        self._answered: dict[PeerName, Ranges] = {}
        """Of which ranges who has told us all that is newer."""
        self._number = 0
        self._asked: dict[int, tuple[PeerName, Ranges]] = {}
        self._last: dict[PeerName, tuple[Instant, Ranges]] = {}

    def begin(self, reachable: Collection[PeerName], now: Instant) -> list[AllocatorEffect]:
        """Nothing of what we remember is certain."""
        self.is_waiting = self.is_open = True
        self._began, self._number = now, self._rng.getrandbits(31)
        for memory in (self._answered, self._asked, self._last):
            memory.clear()
        return self.go_on(reachable, now)

    def doubt(self) -> None:
        """Somebody calls us a clone: alone, there is another of us with company (R21)."""
        self._must_meet = True

    def peers(self, reachable: Collection[PeerName], now: Instant) -> list[AllocatorEffect]:
        return self.go_on(reachable, now) if self.is_open else []

    def go_on(self, reachable: Collection[PeerName], now: Instant) -> list[AllocatorEffect]:
        """Ask those who have not answered for all that is ours by now, or be content. What one of
        them says is ours may be old too: those that answered before are asked about it."""
        mine = self._mine()
        ranges = tuple(sorted(extent[:2] for extent in mine))
        missing = [p for p in sorted(reachable) if not _within(ranges, self._answered.get(p))]
        if reachable and not missing:
            self._end()
            return []
        alone = not reachable and not self._must_meet
        if now >= self._began + (SILENCE if reachable else ALONE) and (reachable or alone):
            if self._answered.keys() & set(reachable):
                self._end()
                return []
            self.is_waiting = False
        self.until = Instant(now + ASK_AGAIN)
        if not reachable:  # there is nobody to ask again: only whoever comes, or patience's end
            self.until = Instant(self._began + ALONE) if alone and self.is_waiting else None
        return [self._ask(p, mine, ranges, now) for p in missing if self._is_due(p, ranges, now)]

    def _mine(self) -> tuple[Extent, ...]:
        mine = sorted(self._ring.owned(self._ring.us), key=lambda s: s.size, reverse=True)
        return tuple((s.start, s.end, s.version) for s in mine[:MAX_EXTENTS])

    def _is_due(self, peer: PeerName, ranges: Ranges, now: Instant) -> bool:
        """Not while it may still answer what we want to know."""
        since, asked = self._last.get(peer, (now, None))
        return now >= since + ASK_AGAIN or not _within(ranges, asked)

    def _ask(
        self, peer: PeerName, mine: tuple[Extent, ...], ranges: Ranges, now: Instant
    ) -> SendTo:
        for number in [n for n, (asked, _) in self._asked.items() if asked == peer][:-3]:
            del self._asked[number]
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._asked[self._number] = peer, ranges
        self._last[peer] = now, ranges
        return SendTo(peer, Message(MessageKind.VERIFY, self._number, extents=mine).encode())

    @property
    def answered_by(self) -> frozenset[PeerName]:
        """Who has answered since it began."""
        return frozenset(self._answered)

    def is_asked(self, src: PeerName, message: Message) -> bool:
        """Whether this answers a question of ours."""
        return self.is_open and self._asked.get(message.number, (None,))[0] == src

    def answered(
        self, src: PeerName, message: Message, reachable: Collection[PeerName], now: Instant
    ) -> list[AllocatorEffect]:
        """NEWER, merged already."""
        if not self.is_asked(src, message):
            return []
        if len(message.slices) < BATCH:
            self._answered[src] = self._asked[message.number][1]
        else:
            self._last.pop(src, None)  # there is more
        return self.go_on(reachable, now)

    def _end(self) -> None:
        self.is_waiting = self.is_open = self._must_meet = False
        self.until = None
        self._asked.clear()
        self._last.clear()


def _within(ranges: Ranges, known: Ranges | None) -> bool:
    """Whether each of these lies in one of those; both in order."""
    if known is None:
        return False
    for start, end in ranges:
        place = bisect_right(known, start, key=lambda one: one[0]) - 1
        if place < 0 or end > known[place][1]:
            return False
    return True


def newer(ring: Ring, src: PeerName, message: Message) -> SendTo:
    """What we know later of what somebody believes to own, and what it does not know to own."""
    found: dict[int, bytes] = {}
    for start, end, version in message.extents:
        if start < end:
            for piece in ring.newer(start, end, version):
                found[piece.start] = ring.encoded(piece)
        if len(found) >= BATCH:
            break
    if len(message.extents) < MAX_EXTENTS:  # else there was no room to say what it knows
        for piece in ring.owned_outside(src, (extent[:2] for extent in message.extents)):
            found[piece.start] = ring.encoded(piece)
    slices = tuple(list(found.values())[:BATCH])
    return SendTo(src, Message(MessageKind.NEWER, message.number, slices).encode())
