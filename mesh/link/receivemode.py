"""Which way to receive: by datagrams (recvmmsg) or by coalesced runs (UDP_GRO).

Where the path hands up runs of datagrams, one recvmsg takes them all; where it does not, asking
for runs costs a system call a datagram. Nothing but a trial tells which path this is.

    SINGLE --bulk, no trial for a while, nothing waits--> COALESCED
      ^                                                      |
      `-- bulk in short runs, or no bulk, and nothing waits -|
      `-- bulk one by one ------------------------------------'

A change throws away what waits in the socket's queue in another shape, so it comes when nothing
does; but a path that coalesces nothing has only single datagrams waiting, and leaves at once. To
wait there would be for ever: one call a datagram is what the queue does not become empty by.
"""

from __future__ import annotations

from mesh.clock import Instant

TRIAL_CALLS = 32
"""Runs of bulk that a verdict on coalescing takes."""

GOOD_RUN = 8
"""Datagrams in a run at the least for runs to be worth it."""

IDLE_CALLS = 1024
"""Calls without enough bulk for a verdict, after which small datagrams are all there is: those
are cheaper to take many at a time."""

TRY_AGAIN = 5.0
"""Seconds from a trial that failed to the next; the trial itself costs half a millisecond."""

CHANGE_SETTLES = 0.5
"""Seconds for the socket's queue to drain after a change of mode."""

BEFORE = 64
"""Runs after a change that say nothing: what came while it was made lies there one by one."""

ALONE = 1.0
"""Datagrams in a run on average of a path that coalesces nothing: not one run was longer."""

LOAD = 500
"""Datagrams that came many at a time since the last look: enough to make a trial worth it."""

MANY = 8
"""Datagrams in one call that count as many at a time."""


class ReceiveMode:
    """``coalesced`` says which system call to use; ``consider`` may change it.

    Only records that are large enough for a good run have a say: what comes one by one because it
    was sent one by one says nothing of the path.
    """

    def __init__(self) -> None:
        self.coalesced = False
        self._calls = self._bulk_calls = self._bulk = 0
        self._next_trial = Instant(0.0)
        self._changed_at = Instant(-CHANGE_SETTLES)

    def batch(self, datagrams: int) -> None:
        """A call took so many datagrams, each by itself."""
        if datagrams >= MANY:
            self._bulk += datagrams

    def run(self, datagrams: int, record: int) -> None:
        """A call took a run, which began in a record of so many datagrams."""
        self._calls += 1
        if self._calls <= BEFORE:
            return
        if record >= GOOD_RUN:
            self._bulk_calls += 1
            self._bulk += datagrams

    def consider(self, now: Instant, *, drained: bool) -> bool:
        """Whether to change over now, ``coalesced`` being the new mode already.

        ``drained``: nothing waits in the socket's queue.
        """
        if self.coalesced:
            if self._bulk_calls >= TRIAL_CALLS:
                change = self._bulk < GOOD_RUN * self._bulk_calls
                if change:
                    if not drained and self._bulk > ALONE * self._bulk_calls:
                        return False
                    self._next_trial = Instant(now + TRY_AGAIN)
            elif self._calls >= IDLE_CALLS and drained:
                change = True
            else:
                return False
        else:
            if self._bulk < LOAD or now < self._next_trial or not drained:
                return False
            change = True
        self._calls = self._bulk_calls = self._bulk = 0
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
