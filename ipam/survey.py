"""Asking every peer in reach what it makes of the range. Pure.

Who drives it: ``ipam.allocator``. Nothing is decided by what is answered: it is for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipam.address import Address
from ipam.effects import AllocatorEffect, Answer, Refused, SendTo, Surveyed
from ipam.messages import Message, MessageKind
from ipam.report import (
    MAX_ASTRAY,
    MAX_OWNED,
    Report,
    first,
    places_hash,
    ring_hash,
)
from ipam.ring import Ring
from ipam.slices import CLUSTER_SIZE
from ipam.space import Space
from mesh.clock import Instant
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random

SILENCE = 3.0
"""Seconds until a peer that has not answered is called silent. It is asked twice."""

MAX_ROUNDS = 8
"""Surveys at once."""


@dataclass(slots=True)
class _Round:
    request: int
    waiting: set[PeerName]
    until: Instant
    again: Instant | None
    reports: dict[PeerName, Report]


class Survey:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._number = 0
        self._rounds: dict[int, _Round] = {}

    @property
    def until(self) -> Instant | None:
        waits = [r.until if r.again is None else r.again for r in self._rounds.values()]
        return min(waits, default=None)

    def begin(
        self, request: int, peers: Iterable[PeerName], own: Mapping[PeerName, Report], now: Instant
    ) -> list[AllocatorEffect]:
        if len(self._rounds) >= MAX_ROUNDS:
            return [Answer(request, Refused("too-many-requests"))]
        if not self._rounds:
            self._number = self._rng.getrandbits(31)  # an answer to a former life is none
        self._number = (self._number + 1) & 0xFFFFFFFF
        until, again = Instant(now + SILENCE), Instant(now + SILENCE / 2)
        asked = _Round(request, set(peers), until, again, dict(own))
        self._rounds[self._number] = asked
        return [*self._ask(self._number, asked), *self._finished()]

    def answered(self, src: PeerName, message: Message) -> list[AllocatorEffect]:
        asked = self._rounds.get(message.number)
        if asked is None or src not in asked.waiting or message.report is None:
            return []
        asked.waiting.discard(src)
        asked.reports[src] = message.report
        return self._finished()

    def go_on(self, reachable: Iterable[PeerName], now: Instant) -> list[AllocatorEffect]:
        """Ask once more; give up those that are silent."""
        effects: list[AllocatorEffect] = []
        there = set(reachable)
        for number, asked in self._rounds.items():
            if asked.again is not None and now >= asked.again:
                asked.again = None
                effects += self._ask(number, asked, there)
        return effects + self._finished(now)

    @staticmethod
    def _ask(
        number: int, asked: _Round, there: set[PeerName] | None = None
    ) -> list[AllocatorEffect]:
        octets = Message(MessageKind.EXAMINE, number).encode()
        peers = sorted(asked.waiting if there is None else asked.waiting & there)
        return [SendTo(peer, octets) for peer in peers]

    def _finished(self, now: Instant | None = None) -> list[AllocatorEffect]:
        effects: list[AllocatorEffect] = []
        for number, asked in list(self._rounds.items()):
            if not asked.waiting or (now is not None and now >= asked.until):
                del self._rounds[number]
                silent = tuple(sorted(asked.waiting))
                effects.append(Answer(asked.request, Surveyed(asked.reports, silent)))
        return effects


def make_report(
    ring: Ring, space: Space, astray: Iterable[Address], leaks: int, withheld: str | None
) -> Report:
    """What a peer says of its own."""
    owned = ring.owned(ring.us)
    return Report(
        cluster=bytes(CLUSTER_SIZE) if ring.id is None else ring.id.cluster,
        ring=ring_hash(ring),
        excluded=places_hash(space.excluded.parts),
        slices=len(ring.slices),
        used=len(space.used),
        free=max(0, space.free_count()) if ring.is_seeded else 0,
        resting=space.resting_count,
        leaks=leaks,
        withheld=withheld or "",
        owned_count=len(owned),
        owned=tuple((s.start, s.end, s.version) for s in owned[:MAX_OWNED]),
        disputed=first((c.start, c.end) for c in ring.conflicts.values()),
        gaps=first(ring.gaps()),
        astray=tuple(sorted(astray)[:MAX_ASTRAY]),
    )
