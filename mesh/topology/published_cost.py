"""A measured round trip, published only when it has really changed (docs/protocol.md 8.5).

Costs that follow every jitter would make the whole mesh compute routes for ever.
"""

from __future__ import annotations

from mesh.clock import Instant

CHANGE = 0.3
FLOOR_US = 500
"""A cost is published anew when it moved by more than this share and this many microseconds."""

INTERVAL = 10.0
"""Seconds between two publications of one edge's cost."""

MAX_US = 2**32 - 1


class PublishedCost:
    """One edge's cost in microseconds."""

    __slots__ = ("_at", "_us")

    def __init__(self) -> None:
        self._us: int | None = None
        self._at: Instant | None = None

    def update(self, rtt: float, now: Instant) -> int:
        """The cost to publish, given the smoothed round trip in seconds."""
        measured = int(min(MAX_US, max(1.0, rtt * 1e6)))
        if self._us is None or self._at is None:
            self._us, self._at = measured, now
        elif now - self._at >= INTERVAL:
            moved = abs(measured - self._us)
            if moved > FLOOR_US and moved > CHANGE * self._us:
                self._us, self._at = measured, now
        return self._us
