"""Which way to receive: by datagrams (recvmmsg) or by coalesced runs (UDP_GRO).

Where the path hands up runs of datagrams, one recvmsg takes them all; where it does not, asking
for runs costs a system call a datagram. Nothing but a trial tells which path this is.

    SINGLE --load, and no trial for a while--> COALESCED
      ^                                           |
      `--------------- runs are short ------------'
"""

from __future__ import annotations

from mesh.clock import Instant

TRIAL_CALLS = 32
"""Calls of a trial of runs; it counts when there were so many."""

GOOD_RUN = 8
"""Datagrams a call at the least for runs to be worth it."""

TRY_AGAIN = 5.0
"""Seconds between trials, and only under load."""

CHANGE_SETTLES = 0.5
"""Seconds for the socket's queue to drain after a change of mode."""

LOAD = 500
"""Datagrams since the last look that count as load."""


class ReceiveMode:
    """``coalesced`` says which system call to use; ``consider`` may change it."""

    def __init__(self) -> None:
        self.coalesced = False
        self._calls = self._datagrams = 0
        self._next_trial = Instant(0.0)
        self._changed_at = Instant(-CHANGE_SETTLES)

    def count(self, datagrams: int) -> None:
        """A call returned so many."""
        self._calls += 1
        self._datagrams += datagrams

    def consider(self, now: Instant) -> bool:
        """Whether to change over now, ``coalesced`` being the new mode already."""
        if self.coalesced:
            if self._calls < TRIAL_CALLS:
                return False
            change = self._datagrams < GOOD_RUN * self._calls
            if change:
                self._next_trial = Instant(now + TRY_AGAIN)
        else:
            change = now >= self._next_trial and self._datagrams >= LOAD
            if not change and (now >= self._next_trial or self._calls < TRIAL_CALLS):
                return False
        self._calls = self._datagrams = 0
        if change:
            self.coalesced, self._changed_at = not self.coalesced, now
        return change

    def refused(self) -> None:
        """The kernel has no such mode: never try again."""
        self.coalesced = False
        self._next_trial = Instant(float("inf"))

    def just_changed(self, now: Instant) -> bool:
        """Whether what is in the socket's queue may still be of the other mode."""
        return now - self._changed_at < CHANGE_SETTLES
