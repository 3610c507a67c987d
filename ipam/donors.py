"""Whom to ask for space, one after another. Pure.

Who drives it: ``ipam.allocator``, while requests wait that no space of ours can serve.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ipam.effects import AllocatorEffect, SendTo
from ipam.messages import Message, MessageKind
from ipam.requests import ASK_AGAIN, ASK_TIMEOUT, DENIAL, Asking
from ipam.ring import Ring
from mesh.clock import Instant
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random


class Donors:
    def __init__(self, ring: Ring, rng: Random) -> None:
        self._ring, self._rng = ring, rng
        self._number = rng.getrandbits(31)
        self._denied: dict[PeerName, Instant] = {}
        """Who had nothing for us, and when: a hint, that is all (docs/ipam.md R12)."""
        self.asking: Asking | None = None
        self.again: Instant | None = None
        """When to ask everybody once more."""

    @property
    def until(self) -> Instant | None:
        return self.again if self.asking is None else self.asking.until

    def is_due(self, now: Instant) -> bool:
        """Nobody is being asked, and the last round is a while ago."""
        return self.asking is None and (self.again is None or now >= self.again)

    def seek(
        self, reachable: Collection[PeerName], leavers: Collection[PeerName], now: Instant
    ) -> list[AllocatorEffect]:
        """Begin with somebody. The larger a share, the likelier it has room; chance spreads those
        who ask at once. Who had none a while ago is asked last, and asked all the same."""
        shares = self._ring.shares()
        donors = [p for p in shares if p in reachable]
        donors.sort(
            key=lambda p: (
                p not in leavers,  # it may have stayed after all
                now >= self._denied.get(p, Instant(-DENIAL)) + DENIAL,
                shares[p] * (0.5 + self._rng.random()),
            )
        )
        self.asking = self.again = None
        return self._ask(donors, now)

    def _ask(self, donors: list[PeerName], now: Instant) -> list[AllocatorEffect]:
        if not donors:
            self.again = Instant(now + ASK_AGAIN)
            return []
        donor = donors.pop()
        self._number = (self._number + 1) & 0xFFFFFFFF
        until = Instant(now + ASK_TIMEOUT)
        self.asking = Asking(donor, self._number, until, self._ours, donors)
        return [SendTo(donor, Message(MessageKind.REQUEST, self._number).encode())]

    def go_on(
        self, reachable: Collection[PeerName], now: Instant, *, needed: bool = True
    ) -> list[AllocatorEffect]:
        """The next one, if anybody still waits."""
        asking, self.asking = self.asking, None
        if asking is None or not needed:
            return []
        return self._ask([p for p in asking.others if p in reachable], now)

    def answered(self, src: PeerName, number: int, now: Instant, *, denied: bool) -> bool:
        """Whether it was the one we are asking. Whoever gave is asked first, should more be
        needed: what a donor has free may be in many pieces, and it gives one at a time."""
        asking = self.asking
        if asking is None or (asking.donor, asking.number) != (src, number):
            return False
        if denied:
            self._denied[src] = now
        elif self._ours > asking.had:
            asking.others.append(src)
        return True

    @property
    def _ours(self) -> int:
        return self._ring.shares().get(self._ring.us, 0)
