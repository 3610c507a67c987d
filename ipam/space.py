"""Addresses inside the slices we own: which are used, which rest, which come next.

Fresh addresses go first, in order; then those that were freed, the one that rested longest
first, and none before its rest is over. Both ends of the range are never given to anybody.
"""

from __future__ import annotations

from bisect import bisect_right
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
        self.barred: list[tuple[Address, Address]] = []
        """Under dispute: nothing new is given from there."""
        self._recent: list[tuple[Address, Address, Instant]] = []
        """Taken over, and resting as what is freed does: its former owner may live."""

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
        place = bisect_right(self._slices, address, key=lambda slice: slice[0]) - 1
        return place >= 0 and address < self._slices[place][1]

    def rest_whole(
        self, start: Address, end: Address, now: Instant, rest: float | None = None
    ) -> None:
        """Nothing of this is given out before its rest is over; ``rest``: when that is less."""
        wanted = self._rest if rest is None else min(self._rest, max(0.0, rest))
        self._recent.append((start, end, Instant(now + wanted)))

    def rests_whole(self, now: Instant) -> bool:
        """Whether space is there that nothing is given from yet, since it was taken over."""
        return any(now < until for _, _, until in self._recent)

    @property
    def resting_starts(self) -> list[Address]:
        """Where space begins that rests as a whole: it is not to be joined with other."""
        return [start for start, _, _ in self._recent]

    @property
    def slices(self) -> list[tuple[Address, Address]]:
        return self._slices

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
        shut = self._shut(now)
        for start, end in self._slices:
            at = self._cursor[start]
            seen = at
            while at < end:
                past = _inside(at, shut)
                if past is not None:
                    at = past
                    continue
                if at not in self.used and at not in self._resting and self._range.is_usable(at):
                    if not any(start <= low < at for low, _ in shut):
                        self._cursor[start] = Address(at + 1)
                    self.used.add(at)
                    return at
                at = Address(at + 1)
                if not shut:
                    seen = at
            self._cursor[start] = seen
        for address, since in self._resting.items():
            if now < since + self._rest:
                break
            if _inside(address, shut) is None:
                del self._resting[address]
                self.used.add(address)
                return address
        return None

    def rests(self, address: Address) -> bool:
        """Whether it was freed, or its space taken over, a while ago, and nobody had it since."""
        return address in self._resting or self.is_resting(address)

    def is_resting(self, address: Address) -> bool:
        """Whether its space was taken over a moment ago."""
        return any(start <= address < end for start, end, _ in self._recent)

    def is_disputed(self, address: Address) -> bool:
        return _inside(address, self.barred) is not None

    def _shut(self, now: Instant) -> list[tuple[Address, Address]]:
        if self._recent:
            self._recent = [rest for rest in self._recent if now < rest[2]]
        return [*self.barred, *((start, end) for start, end, _ in self._recent)]

    def take_this(self, address: Address) -> str | None:
        """Use a certain address; why not, when it cannot be."""
        if not self._range.is_usable(address):
            return "address-reserved"
        if not self.owns(address):
            return "not-our-space"
        if address in self.used:
            return "address-in-use"
        if _inside(address, self.barred) is not None:
            return "address-disputed"
        if self.is_resting(address):
            return "address-resting"
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
        rests = [until for _, _, until in self._recent]
        for since in self._resting.values():
            rests.append(Instant(since + self._rest))
            break
        return min(rests, default=None)

    def spare_block(self, now: Instant) -> tuple[Address, Address] | None:
        """The block to give to a peer in need: half of the largest run nobody uses.

        At most half of what is free, but the last one too; at the upper end of the run, aligned to
        a power of two where that leaves something.
        """
        start, end = self._largest_run(now)
        if start == end:
            return None
        size = min((end - start + 1) // 2, max(1, self.free_count() // 2))
        size = 1 << (size.bit_length() - 1)
        at = (end - size) // size * size
        if at < start:
            at = end - size
        return Address(at), Address(at + size)

    def _largest_run(self, now: Instant) -> tuple[int, int]:
        best, shut = (0, 0), self._shut(now)
        edges = {self._range.start, Address(self._range.end - 1)}
        resting = {a for a, since in self._resting.items() if now < since + self._rest}
        taken = sorted(self.used | resting | edges)
        for start, end in self._slices:
            at: int = start
            first = bisect_right(taken, start - 1)
            for address in [*taken[first : bisect_right(taken, end - 1)], end]:
                if address - at > best[1] - best[0]:
                    for low, high in _open(at, address, shut):
                        if high - low > best[1] - best[0]:
                            best = (low, high)
                at = address + 1
        return best


def _inside(address: int, ranges: Iterable[tuple[Address, Address]]) -> Address | None:
    """The end of a range that holds the address."""
    for start, end in ranges:
        if start <= address < end:
            return end
    return None


def _open(start: int, end: int, shut: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of ``[start, end)`` outside of what is shut."""
    left = [(start, end)]
    for low, high in shut:
        left = [
            piece
            for a, b in left
            for piece in ((a, min(b, low)), (max(a, high), b))
            if piece[0] < piece[1]
        ]
    return left
