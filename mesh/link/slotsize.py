"""Which datagram size the receiver's slots are laid out for: the commonest of what arrives.

Only datagrams that are not the last of their record count, for those are as large as their path
allows. What does not fit the layout is received all the same, by the slower way.
"""

from __future__ import annotations

from collections import Counter

WINDOW = 512
"""Datagrams between two looks: ten full records, so that one odd peer does not turn us round."""

FIRST_LOOK = 64
"""The first look comes sooner when nothing that came fits."""

LEAST, MOST = 256, 8948
"""Payloads worth a layout: less is no path's size, more than 8,972 octets of UDP payload less our
header fits no Ethernet."""

CLEARLY = 2
"""Another size must be so many times as common as ours."""


class SlotSize:
    """``saw`` returns a size to change to, or None."""

    __slots__ = ("_others", "_ours", "_total", "current")

    def __init__(self, current: int) -> None:
        self.current = current
        self._others: Counter[int] = Counter()
        self._ours = self._total = 0

    def saw(self, size: int, count: int = 1) -> int | None:
        """``count`` datagrams with ``size`` octets of payload came."""
        if size == self.current:
            self._ours += count
        elif LEAST <= size <= MOST:
            self._others[size] += count
        else:
            return None
        self._total += count
        if self._total < (WINDOW if self._ours else FIRST_LOOK):
            return None
        ours, self._ours, self._total = self._ours, 0, 0
        if not self._others:  # nearly always
            return None
        best, times = self._others.most_common(1)[0]
        self._others.clear()
        if times <= CLEARLY * ours:
            return None
        self.current = best
        return best
