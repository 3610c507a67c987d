"""How much may wait in front of us: bounded in time, not in packets (docs/sleeve.md 11).

Who drives it: the worker, after every turn at the TAP and at the socket. Buffers that a descheduled
worker needs are filled by TCP when there is nothing else to fill: then a ping waits for all of it.
While a queue does not run empty, only what we take of it in ``time`` seconds may wait.
"""

from __future__ import annotations

from mesh.clock import Instant

WINDOW = 0.02
"""Seconds without an empty queue after which it is standing, and its rate is known."""

REST = 1.0
"""Seconds since it last was standing after which it may have its full length again."""

APART = 1.25
"""The factor that a new length differs by: a change takes the kernel some microseconds."""


class QueueTime:
    """In whatever the queue is measured by. Invariant: least <= length <= most."""

    __slots__ = ("_least", "_most", "_since", "_stood_at", "_taken", "_time", "length", "standing")

    def __init__(self, time: float, least: int, most: int) -> None:
        self._time, self._least, self._most = time, least, most
        self.length = most
        self.standing = False
        """Whether more came for a while than was taken."""
        self._since: Instant | None = None
        """Since when it is not empty, as far as we saw; None when it was."""
        self._taken = 0
        self._stood_at = Instant(0.0)

    def took(self, amount: int, *, emptied: bool, now: Instant) -> int | None:
        """So much was taken, and nothing was left or more may be; a new length, if any."""
        if emptied:
            self._since, self.standing = None, False
            if self.length < self._most and now - self._stood_at >= REST:
                self.length = self._most
                return self.length
            return None
        if self._since is None:
            self._since, self._taken = now, 0  # what was taken now came before
            return None
        self._taken += amount
        passed = now - self._since
        if passed < WINDOW:
            return None
        wanted = max(self._least, min(self._most, round(self._time * self._taken / passed)))
        self._since, self._taken, self._stood_at = now, 0, now
        self.standing = True
        if self.length / APART < wanted < self.length * APART:
            return None
        self.length = wanted
        return wanted
