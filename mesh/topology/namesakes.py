"""Records under our own name that are not ours: a former self's, or a living clone's.

A restarted peer overtakes its former self: it publishes a version above the one it heard. A clone
does the same to us and we to it, for ever; so whoever keeps having to overtake suspects a clone,
says so, and from then on overtakes seldom (docs/protocol.md 7.4).
"""

from __future__ import annotations

from collections import deque

from mesh.clock import Instant

STRIKES = 3
SPACING = 1.0
WINDOW = 60.0
"""A clone is suspected when namesakes are heard in three different seconds of one minute. Records
of a former self come in within the first exchanges and then no more."""

PACE = 10.0
"""Seconds between two overtakes of a suspected clone: the one who is left must win in the end,
and two who live must not keep the whole mesh busy."""


class Namesakes:
    def __init__(self) -> None:
        self.version = 0
        """The highest version heard under our name."""
        self.clone_suspected = False
        self._strikes: deque[Instant] = deque(maxlen=STRIKES)
        self._overtook_at: Instant | None = None

    def heard(self, version: int, now: Instant) -> bool:
        """A namesake as new as our own record, or newer. Returns whether to overtake it now."""
        self.version = max(self.version, version)
        suspected = self.clone_suspected
        if not self._strikes or now - self._strikes[-1] >= SPACING:
            self._strikes.append(now)
        if len(self._strikes) == STRIKES and now - self._strikes[0] <= WINDOW:
            self.clone_suspected = True
        if suspected and self._overtook_at is not None and now - self._overtook_at < PACE:
            return False
        self._overtook_at = now
        return True

    def collect(self, now: Instant) -> None:
        """Drop a suspicion that nothing has fed for long."""
        if self._strikes and now - self._strikes[-1] > WINDOW:
            self.clone_suspected = False
