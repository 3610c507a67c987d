"""A token bucket: how often something may happen, in time that is passed in."""

from __future__ import annotations

from mesh.clock import Instant


class Bucket:
    """Holds up to ``burst`` tokens and gains ``rate`` a second; begins full."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._level = burst
        self._at: Instant | None = None

    def take(self, now: Instant) -> bool:
        """Take one token, if there is one."""
        self._fill(now)
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def next(self, now: Instant) -> Instant:
        """When there is a token to take; not before ``now``."""
        self._fill(now)
        # A hair later than computed: a token that rounding made 0.999… of is none.
        return Instant(now + max(0.0, 1 - self._level) / self._rate * (1 + 1e-9))

    def _fill(self, now: Instant) -> None:
        if self._at is not None and now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now if self._at is None else max(now, self._at)
