"""Whose each address is, when slices overlap: the greatest stamp that covers it says so. Pure.

In an honest history slices that are current tile the range. They overlap while half of a change
has been heard: a takeover that did not know of a donation, a slice that was joined from several.
Everybody who has heard the same slices sees the same parts, in whatever order they came
(docs/ipam.md R3).
"""

from __future__ import annotations

from collections.abc import Iterable
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
