"""Whose each address is, when slices overlap: the greatest stamp that covers it says so. Pure.

In an honest history slices that are current tile the range. They overlap while half of a change
has been heard: a takeover that did not know of a donation, a slice that was joined from several.
Everybody who has heard the same slices sees the same parts, in whatever order they came
(docs/ipam.md R3).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from ipam.address import Address


class Cover(NamedTuple):
    """``[start, end)`` under one stamp; ``slice_start`` is None where only the stamp is known."""

    start: Address
    end: Address
    stamp: int
    slice_start: Address | None


def laid(covers: Iterable[Cover]) -> list[Cover]:
    """The parts of covers that no greater stamp lies on, in order and disjoint."""
    ordered = sorted(covers)
    if all(a.end <= b.start for a, b in pairwise(ordered)):
        return ordered
    edges = sorted({c.start for c in ordered} | {c.end for c in ordered})
    parts: list[Cover] = []
    active: list[tuple[int, int, Cover]] = []
    at = 0
    for left, right in pairwise(edges):
        while at < len(ordered) and ordered[at].start <= left:
            heappush(active, (-ordered[at].stamp, at, ordered[at]))
            at += 1
        while active and active[0][2].end <= left:
            heappop(active)
        if not active:
            continue
        top = active[0][2]
        last = parts[-1] if parts else None
        if last is not None and last.end == left and last[2:] == top[2:]:
            parts[-1] = last._replace(end=right)
        else:
            parts.append(Cover(left, right, top.stamp, top.slice_start))
    return parts


class Parts:
    """What counts where, in order. A change costs what it touches, however long the ring is."""

    def __init__(self) -> None:
        self._parts: list[Cover] = []
        self._starts: list[int] = []
        self.changes = 0
        """Counts what was laid: whoever keeps what it worked out of the parts compares it."""

    def __iter__(self) -> Iterator[Cover]:
        return iter(self._parts)

    def at(self, address: int) -> Cover | None:
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._parts[place].end:
            return None
        return self._parts[place]

    def nobodys(self) -> list[int]:
        """The stamps of parts that are nobody's."""
        return [part.stamp for part in self._parts if part.slice_start is None]

    def under(self, start: int, end: int) -> list[Cover]:
        """Parts that share an address with ``[start, end)``."""
        low, high = self._places(start, end)
        return self._parts[low:high]

    def _places(self, start: int, end: int) -> tuple[int, int]:
        low = bisect_right(self._starts, start) - 1
        if low < 0 or self._parts[low].end <= start:
            low += 1
        return low, max(low, bisect_left(self._starts, end))

    def lay(self, start: int, end: int, covers: Iterable[Cover]) -> None:
        """Work ``[start, end)`` out anew from all that covers any of it."""
        low, high = self._places(start, end)
        inside = (
            cover._replace(start=Address(max(cover.start, start)), end=Address(min(cover.end, end)))
            for cover in covers
            if cover.start < end and start < cover.end
        )
        parts = laid(inside)
        for part in self._parts[low:high]:
            if part.start < start:
                parts.insert(0, part._replace(end=Address(start)))
            if part.end > end:
                parts.append(part._replace(start=Address(end)))
        whole = _joined(parts)
        self._parts[low:high] = whole
        self._starts[low:high] = [part.start for part in whole]
        self.changes += 1


def _joined(parts: list[Cover]) -> list[Cover]:
    whole: list[Cover] = []
    for part in parts:
        if whole and whole[-1].end == part.start and whole[-1][2:] == part[2:]:
            whole[-1] = whole[-1]._replace(end=part.end)
        else:
            whole.append(part)
    return whole
