"""Addresses that must be ours though their space is not: asked of whoever owns it. Pure.

Who drives it: ``ipam.allocator``. An operator names an address, or a container here has one whose
space was taken over (docs/ipam.md R13, R18).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipam.address import Address
from ipam.effects import AllocatorEffect, SendTo
from ipam.messages import Message, MessageKind
from ipam.ring import Ring
from mesh.clock import Instant
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random

RETRY = 1.0
"""Seconds until an owner that does not answer is asked again."""

WINDOW = 64
"""Addresses asked for at once."""


@dataclass(slots=True)
class _Want:
    number: int
    owner: PeerName | None
    again: Instant


class Wants:
    def __init__(self, ring: Ring, rng: Random) -> None:
        self._ring, self._rng = ring, rng
        self._number = 0
        self._wants: dict[Address, _Want] = {}

    @property
    def until(self) -> Instant | None:
        return min((want.again for want in self._wants.values()), default=None)

    def go_on(
        self, wanted: Collection[Address], reachable: Collection[PeerName], now: Instant
    ) -> list[AllocatorEffect]:
        """Ask for what is wanted, and no more for what is not."""
        effects: list[AllocatorEffect] = []
        for address in [a for a in self._wants if a not in wanted]:
            del self._wants[address]
        for address in wanted:
            want = self._wants.get(address)
            owner = self._ring.owner_of(address)
            if not self._wants:
                self._number = self._rng.getrandbits(31)  # an answer to a former life is none
            if want is None:
                if len(self._wants) >= WINDOW:
                    continue
                want = self._wants[address] = _Want(0, None, now)
            if want.owner == owner and now < want.again:
                continue
            self._number = (self._number + 1) & 0xFFFFFFFF
            want.number, want.owner, want.again = self._number, owner, Instant(now + RETRY)
            if owner in reachable and owner is not None:
                message = Message(MessageKind.WANT, self._number, address=address)
                effects.append(SendTo(owner, message.encode()))
        return effects

    def denied(self, src: PeerName, number: int) -> Address | None:
        """The address that its owner says is somebody's there."""
        for address, want in self._wants.items():
            if (want.number, want.owner) == (number, src):
                del self._wants[address]
                return address
        return None
