"""Parting with space that somebody asks for. Pure.

Who drives it: ``ipam.allocator``. Nothing is said of a gift before the Persist that takes it from
us (docs/ipam.md R12, R13).
"""

from __future__ import annotations

from ipam.address import Address, AddressRange
from ipam.changes import announced
from ipam.effects import AllocatorEffect, SendTo
from ipam.messages import Message, MessageKind
from ipam.ring import Ring
from ipam.space import Space
from mesh.clock import Instant
from mesh.names import PeerName


class Donor:
    def __init__(self, ring: Ring, space: Space, range: AddressRange) -> None:
        self._ring, self._space, self._range = ring, space, range

    def donate(self, src: PeerName, number: int, now: Instant) -> list[AllocatorEffect]:
        """Half of what is free, at most, or the last of it."""
        block = self._space.spare_block(now) if self._ring.is_seeded else None
        return self.deny(src, number) if block is None else self._give(*block, src, number)

    def part_with(self, src: PeerName, message: Message, now: Instant) -> list[AllocatorEffect]:
        """This very address, if nobody has it here and it does not rest with the space it was taken
        over with, but for whoever lost that; who owns it, if we do not."""
        address = message.address
        held = None if address is None else self._ring.at(address)
        if address is None or held is None:
            return []
        if held.owner != self._ring.us:
            octets = (self._ring.encoded(held),)
            return [SendTo(src, Message(MessageKind.NEWER, 0, octets).encode())]
        if (
            address in self._space.used
            or self._space.is_disputed(address)
            or not self._range.is_usable(address)
        ):
            return self.deny(src, message.number)
        if self._space.is_resting(address, now):
            # Whose it was has containers there, maybe (R18); when nobody remembers who that is, to
            # deny it would call their addresses lost: whoever waits asks again.
            former = self._space.former_owner(address)
            if former is None:
                return []
            if former != src:
                return self.deny(src, message.number)
        return self._give(address, Address(address + 1), src, message.number)

    @staticmethod
    def deny(src: PeerName, number: int) -> list[AllocatorEffect]:
        return [SendTo(src, Message(MessageKind.DENIED, number).encode())]

    def _give(
        self, start: Address, end: Address, src: PeerName, number: int
    ) -> list[AllocatorEffect]:
        changed = self._ring.give(start, end, src)
        octets = tuple(self._ring.encoded(piece) for piece in changed)
        told = SendTo(src, Message(MessageKind.DONATE, number, octets).encode())
        return [*announced(self._ring, changed), told]
