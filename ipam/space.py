"""Addresses inside the slices we own: which are used, which rest, which come next.

Fresh addresses go first, in order; then those that were freed, the one that rested longest
first, and none before its rest is over. Both ends of the range are never given to anybody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ipam.address import Address, AddressRange
from mesh.clock import Instant

REST = 60.0
"""Seconds a freed address is nobody's: what still talks to its former holder gives up by then."""


class Space:
    """Invariants: an address is used, resting or free, never two of them; only owned ones are
    given out."""

    def __init__(self, range: AddressRange, rest: float = REST) -> None:
        self._range, self._rest = range, rest
        self._slices: list[tuple[Address, Address]] = []
        self._cursor: dict[Address, Address] = {}
        self.used: set[Address] = set()
        self._resting: OrderedDict[Address, Instant] = OrderedDict()
        self.barred: set[Address] = set()
        """Starts of slices under dispute: nothing new is given from them."""

    def own(self, slices: Iterable[tuple[Address, Address]]) -> None:
        """These are ours now, and nothing else is."""
        wanted = sorted(slices)
        ends = dict(wanted)
        for start, cursor in list(self._cursor.items()):
            if start not in ends:
                del self._cursor[start]
            elif cursor > ends[start]:
                self._cursor[start] = ends[start]
        for start, _ in wanted:
            # A slice split off behind a cursor begins where that cursor may have passed already:
            # what was used or rests is skipped by looking, so starting over is safe.
            self._cursor.setdefault(start, start)
        self._slices = wanted
        for address in [a for a in self._resting if not self.owns(a)]:
            del self._resting[address]

    def owns(self, address: int) -> bool:
        return any(start <= address < end for start, end in self._slices)

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self._slices)

    def free_count(self) -> int:
        """Addresses that could be given out, resting ones included."""
        usable = self.size - sum(
            self.owns(edge) for edge in (self._range.start, self._range.end - 1)
        )
        return usable - sum(1 for a in self.used if self.owns(a))

    def take(self, now: Instant) -> Address | None:
        """The next free address, used from now on; None when there is none that may be given."""
        for start, end in self._slices:
            if start in self.barred:
                continue
            at = self._cursor[start]
            while at < end:
                if at not in self.used and at not in self._resting and self._range.is_usable(at):
                    self._cursor[start] = Address(at + 1)
                    self.used.add(at)
                    return at
                at = Address(at + 1)
            self._cursor[start] = at
        for address, since in self._resting.items():
            if now < since + self._rest:
                break
            if not self._is_barred(address):
                del self._resting[address]
                self.used.add(address)
                return address
        return None

    def take_this(self, address: Address) -> str | None:
        """Use a certain address; why not, when it cannot be."""
        if not self._range.is_usable(address):
            return "address-reserved"
        if not self.owns(address):
            return "not-our-space"
        if address in self.used:
            return "address-in-use"
        self._resting.pop(address, None)
        self.used.add(address)
        return None

    def release(self, address: Address, now: Instant) -> None:
        """Nobody has it any more; it rests."""
        if address in self.used:
            self.used.remove(address)
            if self.owns(address):
                self._resting[address] = now

    def next_rested(self) -> Instant | None:
        """When the first resting address may be given again."""
        for since in self._resting.values():
            return Instant(since + self._rest)
        return None

    def spare_block(self) -> tuple[Address, Address] | None:
        """The block to give to a peer in need: half of the largest run nobody uses.

        At most half of what is free, at the upper end of the run, aligned to a power of two where
        that leaves something.
        """
        start, end = self._largest_run()
        free = self.free_count()
        size = min((end - start + 1) // 2, max(1, free // 2))
        if end - start < 1 or free < 2:
            return None
        size = 1 << (size.bit_length() - 1)
        at = (end - size) // size * size
        if at < start:
            at = end - size
        return Address(at), Address(at + size)

    def _largest_run(self) -> tuple[int, int]:
        best = (0, 0)
        taken = sorted(self.used | set(self._resting))
        for start, end in self._slices:
            if start in self.barred:
                continue
            at = start
            for address in [a for a in taken if start <= a < end] + [end]:
                if address - at > best[1] - best[0]:
                    best = (at, address)
                at = Address(address + 1)
        return best

    def _is_barred(self, address: int) -> bool:
        return any(start in self.barred and start <= address < end for start, end in self._slices)
