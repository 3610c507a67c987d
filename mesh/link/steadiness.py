"""How much of a path's small probes is lost, and whether frames may trust it (protocol 10.6).

Who drives it: ``mesh.link.linkprobe``. A path that went down, or loses a great part, is *unsteady*
until it has proven itself for a while: its edge costs so much that any other way is taken, and it
is still there where there is no other. The two thresholds lie so far apart that one kind of
weather does not cross both.

    steady --went down--> unsteady --16 to 64 probes, at most 1 in 8 lost--> steady
    steady --26 of 64 lost--> unsteady --64 probes, at most 4 lost--> steady
"""

from __future__ import annotations

from collections import deque

from mesh.clock import Instant

MEMORY = 64
"""Probes remembered."""

TOO_MANY = 26
"""Lost ones of MEMORY that make a path unsteady: two in five."""

TRIAL_FIRST, TRIAL_MAX = 16, 64
"""Probes of a trial, two a second: doubled for each fall that is remembered. A path that healed
must be used again within 60 s."""

FEW, FEW_AFTER_LOSS = 8, 16
"""One in so many may be lost in a trial; after loss it takes more than luck."""

FALLS_REMEMBERED = 600.0
"""Seconds."""

SMOOTHING = 1 / 128
"""Weight of one probe in the smoothed loss, once there were so many."""


class Steadiness:
    """``loss``: the smoothed share of probes, there and back, that went unanswered."""

    def __init__(self) -> None:
        self.steady = True
        self.loss = 0.0
        self._lost = 0
        self._seen = 0
        self._trial, self._few = TRIAL_FIRST, FEW
        self._falls: deque[Instant] = deque(maxlen=8)

    def saw(self, now: Instant, *, answered: bool) -> None:
        """One probe's fate."""
        self._seen += 1
        self._lost = (self._lost << 1 | (not answered)) & ((1 << MEMORY) - 1)
        self.loss += ((not answered) - self.loss) * max(1 / self._seen, SMOOTHING)
        if self.steady:
            if self._lost.bit_count() >= TOO_MANY:
                self._fall(now)
                self._trial, self._few = TRIAL_MAX, FEW_AFTER_LOSS
        elif self._seen >= self._trial:
            recent = min(self._seen, TRIAL_MAX)
            lost = (self._lost & ((1 << recent) - 1)).bit_count()
            self.steady = lost <= recent // self._few

    def went_down(self, now: Instant) -> None:
        self._fall(now)
        self._lost, self._seen, self.loss = 0, 0, 1.0

    @property
    def is_lossy(self) -> bool:
        """Whether single losses are so common that a few in a row mean little."""
        return self._lost.bit_count() > MEMORY // FEW

    def _fall(self, now: Instant) -> None:
        while self._falls and now >= self._falls[0] + FALLS_REMEMBERED:
            self._falls.popleft()
        self._trial = min(TRIAL_MAX, TRIAL_FIRST << len(self._falls))
        self._falls.append(now)
        self._few = FEW
        self.steady = False
