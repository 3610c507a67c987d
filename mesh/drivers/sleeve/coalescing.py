"""Which way to receive: by datagrams (recvmmsg) or by coalesced runs (UDP_GRO).

Where the path hands up runs of datagrams, one recvmsg takes them all; where it does not, asking
for runs costs a system call a datagram. Nothing but a trial tells which path this is.
"""

from __future__ import annotations

import os
import socket

from mesh.clock import Instant
from mesh.drivers.sleeve.abi import SOL_UDP, UDP_GRO

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

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.coalesced = False
        self._calls = self._datagrams = 0
        self._next_trial = Instant(0.0)
        self._changed_at = Instant(-CHANGE_SETTLES)

    def count(self, datagrams: int) -> None:
        self._calls += 1
        self._datagrams += datagrams

    def consider(self, now: Instant) -> None:
        """Look at what came since the last look; change over when the other way is better."""
        if self.coalesced:
            if self._calls < TRIAL_CALLS:
                return
            if self._datagrams < GOOD_RUN * self._calls:
                self._set(False, now)
                self._next_trial = Instant(now + TRY_AGAIN)
        elif now >= self._next_trial:
            if self._datagrams >= LOAD:
                self._set(True, now)
            else:
                return
        elif self._calls < TRIAL_CALLS:
            return
        self._calls = self._datagrams = 0

    def just_changed(self, now: Instant) -> bool:
        """Whether what is in the socket's queue may still be of the other mode."""
        return now - self._changed_at < CHANGE_SETTLES

    def _set(self, coalesced: bool, now: Instant) -> None:
        sock = socket.socket(fileno=os.dup(self._fd))
        try:
            sock.setsockopt(SOL_UDP, UDP_GRO, int(coalesced))
            self.coalesced, self._changed_at = coalesced, now
        except OSError:
            self._next_trial = Instant(float("inf"))  # a kernel without it
        finally:
            sock.close()
