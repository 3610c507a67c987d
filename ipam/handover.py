"""Leaving: all our space to another peer, durably, before anything of ours may be deleted. Pure.

Who drives it: ``ipam.allocator``.

    offering --ACK of an offer--> giving --ACK of all that was given--> left
       ` DENIED, silence: somebody else is offered it

An offer is a slice of ours as it is: whoever has it durably keeps the same ring on a disk that can
be written. Only then is anything given, for what is given once cannot be given to another. Should
the heir fall silent after that, any other peer of the ring that holds what was given will do: the
space is known to be the heir's, and can be reclaimed should it never return.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ipam.address import Address
from ipam.changes import announced
from ipam.effects import AllocatorEffect, Left, SendTo
from ipam.messages import Message, MessageKind
from ipam.ring import Ring
from ipam.slices import decode_slice
from mesh.clock import Instant
from mesh.effects import Notify
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random

RETRY = 1.0
"""Seconds until what nobody answered is said again."""

PATIENT_TRIES = 2
"""Times that an heir alone is told; after that another peer is told with it."""

BATCH = 256
"""Slices of one message: less than 64 KiB, as everything that peers say to each other."""

WINDOW = 8
"""Messages under way at once."""


class Handover:
    """Invariant: ``has_left`` only when no slice is ours and all we gave is durable elsewhere."""

    def __init__(self, ring: Ring, rng: Random) -> None:
        self._ring, self._rng, self._us = ring, rng, ring.us
        self.is_active = self.has_left = False
        self.until: Instant | None = None
        """When to speak again, while active."""
        self.leavers: set[PeerName] = set()
        """Peers that are leaving themselves: no heirs."""
        self._number = self._offer = rng.getrandbits(31)
        self._refused: set[PeerName] = set()
        self._hopes: set[PeerName] = set()
        """Who could be reached when we began."""
        self._heir: PeerName | None = None
        self._tries = 0
        self._unheard: dict[int, tuple[Address, ...]] = {}
        """Starts of what was given, by message, until somebody says that it is durable."""

    def begin(self, reachable: Collection[PeerName], now: Instant) -> list[AllocatorEffect]:
        self.is_active, self.has_left = True, False
        self._refused.clear()
        self._hopes = set(reachable)
        return self.go_on(reachable, now)

    def give_up(self) -> None:
        """We stay. What was given already is the heir's."""
        self.is_active = self.has_left = False
        self.until = None

    def go_on(self, reachable: Collection[PeerName], now: Instant) -> list[AllocatorEffect]:
        """Say what has to be said now, or say it again."""
        self.until = Instant(now + RETRY)
        able = set(reachable) - self._refused
        peers = sorted(able - self.leavers) or sorted(able)  # who said it leaves may have stayed
        if self._unheard:
            return self._tell(peers)
        mine = self._ring.owned(self._us)
        if not mine:
            return self._end(self._heir, has_left=True)
        if peers:
            offer = Message(MessageKind.HANDOVER, self._offer, (self._ring.encoded(mine[0]),))
            return [SendTo(self._rng.choice(peers), offer.encode())]
        known = self._hopes | set(self._ring.shares())
        if known - {self._us} - self.leavers - self._refused:
            return []  # others there are, out of reach: they may come back
        return self._end(None, has_left=False)

    def answered(
        self,
        kind: MessageKind,
        src: PeerName,
        number: int,
        reachable: Collection[PeerName],
        now: Instant,
    ) -> list[AllocatorEffect]:
        """ACK or DENIED of something that we said."""
        if not self.is_active or (number != self._offer and number not in self._unheard):
            return []
        if kind is MessageKind.DENIED:
            self._refused.add(src)
        elif number in self._unheard:
            del self._unheard[number]
            if len(self._unheard) % WINDOW:
                return []
        elif not self._unheard and src in reachable:
            return [*self._give(src), *self.go_on(reachable, now)]
        return self.go_on(reachable, now)

    def inherit(self, src: PeerName, message: Message) -> SendTo:
        """The answer to somebody who leaves, when what was said has been merged.

        We answer for what we hold, and take no offers when we leave ourselves.
        """
        self.leavers.add(src)
        holds = all(self._ring.holds(octets) for octets in message.slices)
        if self.is_active or self.has_left:
            owners = {decode_slice(octets)[1].owner for octets in message.slices}
            holds = holds and self._us in owners and not self.has_left
        kind = MessageKind.ACK if holds else MessageKind.DENIED
        return SendTo(src, Message(kind, message.number).encode())

    def _give(self, heir: PeerName) -> list[AllocatorEffect]:
        mine = self._ring.owned(self._us)
        changed = [piece for p in mine for piece in self._ring.give(p.start, p.end, heir)]
        self._heir, self._tries = heir, 0
        # What we gave away before may be known to nobody but us and whom we gave it to.
        issued = [p.start for p in self._ring.slices.values() if p.issuer == self._us]
        starts = tuple(sorted({*(piece.start for piece in changed), *issued}))
        for n in range(0, len(starts), BATCH):
            self._number = (self._number + 1) & 0xFFFFFFFF
            self._unheard[self._number] = starts[n : n + BATCH]
        return announced(self._ring, changed) if changed else []

    def _tell(self, peers: list[PeerName]) -> list[AllocatorEffect]:
        told = {self._heir} & set(peers)
        others = [p for p in peers if p not in told]
        self._tries += 1
        if others and (not told or self._tries > PATIENT_TRIES):
            told.add(self._rng.choice(others))
        effects: list[AllocatorEffect] = []
        for number, starts in list(self._unheard.items())[:WINDOW]:
            now = {p.start: p for p in map(self._ring.at, starts) if p is not None}  # or later ones
            pieces = tuple(map(self._ring.encoded, now.values()))
            message = Message(MessageKind.HANDOVER, number, pieces).encode()
            effects += [SendTo(peer, message) for peer in sorted(filter(None, told))]
        return effects

    def _end(self, heir: PeerName | None, *, has_left: bool) -> list[AllocatorEffect]:
        self.is_active, self.has_left, self.until = False, has_left, None
        return [Notify(Left(heir))]
