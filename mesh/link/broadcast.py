"""Each broadcast once at each peer: numbers given out, numbers seen.

A broadcast is known by its origin and a number. The upper 24 bits of the number are the origin's
incarnation, drawn at random when its worker starts; the lower 40 count its broadcasts. So a worker
that starts anew, whatever its clock says, is not taken for its own past.

Invariant: ``accept`` returns True at most once for a number of an origin, as long as no more than
``MAX_INCARNATIONS`` of that origin are about.
"""

from __future__ import annotations

from mesh.link.replay import ReplayWindow
from mesh.names import ShortID

COUNTER_BITS = 40
"""A million million broadcasts: three years at 10,000 a second."""

INCARNATION_BITS = 24
MAX_INCARNATIONS = 4
"""Windows kept for one origin. Broadcasts live for milliseconds: a worker would have to start
four times within that to be heard twice."""


class Broadcasts:
    """``incarnation`` must be drawn at random for each start of the worker."""

    def __init__(self, incarnation: int) -> None:
        self._next = (incarnation & ((1 << INCARNATION_BITS) - 1)) << COUNTER_BITS
        self._seen: dict[ShortID, dict[int, ReplayWindow]] = {}

    def number(self) -> int:
        """The number of our next broadcast."""
        self._next += 1
        return self._next

    def accept(self, origin: ShortID, number: int) -> bool:
        """Whether this one has not been here yet; remembers it."""
        windows = self._seen.setdefault(origin, {})
        incarnation, counter = number >> COUNTER_BITS, number & ((1 << COUNTER_BITS) - 1)
        window = windows.get(incarnation)
        if window is None:
            if len(windows) >= MAX_INCARNATIONS:
                del windows[next(iter(windows))]
            window = windows[incarnation] = ReplayWindow()
        return window.accept(counter)

    def forget(self, origin: ShortID) -> None:
        """The peer is gone, or another has its short ID."""
        self._seen.pop(origin, None)
