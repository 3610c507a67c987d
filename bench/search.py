"""The highest rate a path carries with at most one per cent of loss, found in few short holds.

A hold offers one rate for a fifth of a second and is judged when all that will arrive has arrived.
Where the round before ended, the next begins: one hold to see that it still holds, one above or
below it, one between; more where it has become much better. Pure: holds in, rates out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LOSS = 0.01
"""The share of datagrams that may be lost for a rate to count."""

FLAT_OUT = 50e6
"""A rate nothing reaches: as fast as the sender can."""

STEP, STEEPER, STEEPEST = 1.1, 1.36, 2.0
"""A first step up or down; how much larger each further one up is, and how large it may become."""

SHORT = 0.9
"""The share of what was asked for below which the sender came short of it."""

NEAR = 1.03
"""How close together the highest rate that holds and the lowest that does not need be."""

WARM, COLD, MOST = 3, 6, 9
"""Holds after which a search that found a rate ends, with and without an earlier one to begin at;
and after which any ends."""

LEAST = 100.0
"""Datagrams a second: a hold has some at least."""


@dataclass(frozen=True)
class Hold:
    seconds: float
    sent: int
    received: int

    @property
    def loss(self) -> float:
        return 1 - self.received / self.sent if self.sent else 1.0

    @property
    def good(self) -> bool:
        return self.sent > 0 and self.sent - self.received <= LOSS * self.sent

    @property
    def rate(self) -> float:
        """Received a second."""
        return self.received / self.seconds


class Search:
    """Chooses the rate of each hold by what became of those before it.

    ``start`` is what an earlier search found, or None: then the first hold goes flat out.
    """

    def __init__(self, start: float | None) -> None:
        self.rate = FLAT_OUT if start is None else max(start, LEAST)
        self.best: Hold | None = None
        self._low, self._high = 0.0, math.inf
        self._holds, self._enough = 0, COLD if start is None else WARM
        self._step, self._shorts = STEP, 0

    @property
    def done(self) -> bool:
        if self._holds >= MOST:
            return True
        if self.best is None:
            return False
        if self._high == math.inf:  # so far everything held: until the sender can do no more
            return self._low >= FLAT_OUT or self._shorts > 1
        return self._holds >= self._enough or self._high <= NEAR * self._low

    def learn(self, hold: Hold) -> None:
        """What became of ``rate``, which is then the next to be tried."""
        self._holds += 1
        if hold.good:
            if self.best is None or hold.rate > self.best.rate:
                self.best = hold
            # What was asked for and not what was offered: a sender that did not come to do it once
            # may the next time, and a search that began at its failures would never come up again.
            self._low = max(self._low, self.rate)
            self._shorts += hold.sent / hold.seconds < SHORT * self.rate
        else:
            self._high = min(self._high, self.rate, hold.sent / hold.seconds or self.rate)
            if self._low >= self._high:
                self._low = 0.0  # it held once and does not any more
        if self._low and self._high < math.inf:
            self.rate = math.sqrt(self._low * self._high)
        elif self._low:
            self.rate = self._low * self._step
            self._step = min(self._step * STEEPER, STEEPEST)
        else:
            # What arrives of far too much is a better guess than a step down, unless next to
            # nothing does.
            self.rate = max(LEAST, min(self._high / STEP, max(hold.rate, self._high / 4)))
