"""Addresses inside the slices we own: which are used, which rest, which come next.

Fresh addresses go first, in order; then those that were freed, the one that rested longest
first, and none before its rest is over. Both ends of the range are never given to anybody, what is
excluded only by force.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable

from ipam.address import Address, AddressRange
from ipam.exclusions import Excluded
from mesh.clock import Instant
from mesh.names import PeerName

REST = 60.0
"""Seconds a freed address is nobody's: what still talks to its former holder gives up by then."""

MAX_FREED = 65_536
"""Freed addresses whose order is remembered: beyond, the one that rested longest is as fresh."""


class Space:
    """Invariants: an address is used, resting or free, never two of them; only owned ones are
    given out."""

    def __init__(
        self,
        range: AddressRange,
        rest: float = REST,
        takeover_rest: float | None = None,
        excluded: Excluded | None = None,
    ) -> None:
        self._range, self._rest = range, rest
        self._takeover_rest = rest if takeover_rest is None else takeover_rest
        self.excluded = excluded or Excluded(range)
        self._is_forgetful = False
        """Freed addresses are as fresh again: behind a cursor, and found from the start."""
        self._slices: list[tuple[Address, Address]] = []
        self._cursor: dict[Address, Address] = {}
        self.used: set[Address] = set()
        self._resting: OrderedDict[Address, Instant] = OrderedDict()
        self.barred: list[tuple[Address, Address]] = []
        """Under dispute: nothing new is given from there."""
        self._recent: list[tuple[Address, Address, Instant, PeerName | None]] = []
        """Taken over, and resting as what is freed does: its former owner may live."""

    def own(self, slices: Iterable[tuple[Address, Address]]) -> None:
        """These are ours now, and nothing else is."""
        wanted = sorted(slices)
        if wanted == self._slices:
            return
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
        self,
        start: Address,
        end: Address,
        now: Instant,
        rest: float | None = None,
        former: PeerName | None = None,
    ) -> None:
        """Nothing of this is given out before its rest is over; ``rest``: when that is less.
        ``former``: whose it was, who may have back what its containers have."""
        wanted = self._takeover_rest if rest is None else min(self._takeover_rest, max(0.0, rest))
        self._recent.append((start, end, Instant(now + wanted), former))

    def rest_freed(self, freed: Iterable[Address], now: Instant) -> None:
        """What was freed in a former life, oldest first, rests anew: nobody knows for how long."""
        for address in freed:
            if self.owns(address) and address not in self.used:
                self._resting[address] = now

    def rests_whole(self, now: Instant) -> bool:
        """Whether space is there that nothing is given from yet, since it was taken over."""
        return any(now < until for _, _, until, _ in self._recent)

    @property
    def resting_starts(self) -> list[Address]:
        """Where space begins that rests as a whole: it is not to be joined with other."""
        return [start for start, _, _, _ in self._recent]

    @property
    def slices(self) -> list[tuple[Address, Address]]:
        return self._slices

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self._slices)

    def free_count(self) -> int:
        """Addresses that could be given out, resting ones included."""
        excluded, edges = self.excluded, (self._range.start, Address(self._range.end - 1))
        usable = self.size - sum(self.owns(e) and excluded.end_of(e) is None for e in edges)
        for low, high in excluded.parts:
            usable -= sum(max(0, min(high, end) - max(low, start)) for start, end in self._slices)
        return usable - sum(1 for a in self.used if self.owns(a) and excluded.end_of(a) is None)

    @property
    def resting_count(self) -> int:
        """Freed addresses that nobody had since, rested ones too."""
        return len(self._resting)

    def excluded_used(self) -> list[Address]:
        """Addresses in use that would not be given to anybody any more."""
        return sorted(a for a in self.used if self.excluded.end_of(a) is not None)

    def take(self, now: Instant) -> Address | None:
        """The next free address, used from now on; None when there is none that may be given."""
        address = self._take_fresh(now)
        if address is None and self._is_forgetful:
            self._is_forgetful = False
            self._cursor = {start: start for start, _ in self._slices}
            address = self._take_fresh(now)
        return self._take_rested(now) if address is None else address

    def _take_fresh(self, now: Instant) -> Address | None:
        shut, excluded = self._shut(now), self.excluded
        for start, end in self._slices:
            at = self._cursor[start]
            seen = at
            while at < end:
                past = _inside(at, shut)
                if past is not None:
                    at = past
                    continue
                past = excluded.end_of(at)
                if past is not None:
                    at = min(past, end)
                    seen = seen if shut else at
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
        return None

    def _take_rested(self, now: Instant) -> Address | None:
        shut = self._shut(now)
        for address, since in self._resting.items():
            if now < since + self._rest:
                break
            if _inside(address, shut) is None and self.excluded.end_of(address) is None:
                del self._resting[address]
                self.used.add(address)
                return address
        return None

    def rests(self, address: Address) -> bool:
        """Whether it was freed, or its space taken over, a while ago, and nobody had it since."""
        return address in self._resting or self.is_resting(address)

    def is_resting(self, address: Address, now: Instant | None = None) -> bool:
        """Whether its space was taken over a moment ago, and its rest is not over ``now``."""
        return any(
            start <= address < end and (now is None or now < until)
            for start, end, until, _ in self._recent
        )

    def former_owner(self, address: Address) -> PeerName | None:
        """Of space that rests since it was taken over; None where nobody remembers."""
        return next((who for a, b, _, who in self._recent if a <= address < b), None)

    def is_disputed(self, address: Address) -> bool:
        return _inside(address, self.barred) is not None

    def _shut(self, now: Instant) -> list[tuple[Address, Address]]:
        if self._recent:
            self._recent = [rest for rest in self._recent if now < rest[2]]
        return [*self.barred, *((start, end) for start, end, _, _ in self._recent)]

    def take_this(self, address: Address, now: Instant, *, force: bool = False) -> str | None:
        """Use a certain address; why not, when it cannot be. ``force``: also an excluded one."""
        if not self._range.is_usable(address):
            return "address-reserved"
        if not force and self.excluded.end_of(address) is not None:
            return "address-excluded"
        if not self.owns(address):
            return "not-our-space"
        if address in self.used:
            return "address-in-use"
        if _inside(address, self.barred) is not None:
            return "address-disputed"
        if self.is_resting(address, now):
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
            self._forget(now)

    def _forget(self, now: Instant) -> None:
        """Those that rested longest, when more are remembered than there is room for."""
        while len(self._resting) > MAX_FREED:
            address, since = next(iter(self._resting.items()))
            if now < since + self._rest:
                return
            del self._resting[address]
            self._is_forgetful = True

    def next_rested(self, now: Instant) -> Instant | None:
        """When the next resting address may be given again; what has rested waits for nothing."""
        rests = [until for _, _, until, _ in self._recent if until > now]
        for since in self._resting.values():
            until = Instant(since + self._rest)
            if until > now:
                rests.append(until)
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
        best, shut = (0, 0), [*self._shut(now), *self.excluded.parts]
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
