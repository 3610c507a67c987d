"""What a peer sent us, what of it came, and whose fault the rest is: the receiver's part of 10.9.

Records are numbered, so a record of which nothing came shows as a gap, and one of which something
came lies torn in the reassembly. Neither is counted before it is SETTLE late: what overtakes by
less is no loss. What our own socket's queue had no room for is no loss of the path, and smaller
records would make it worse; only the kernel's count of it tells (``Overruns``).

Who drives it: the worker looks every LOOK seconds while anything comes, and sends what
``report`` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.clock import Instant
from mesh.link.replay import ReplayWindow
from mesh.wire.sleeve import REPORT_BODY

LOOK = 0.05
"""Seconds between two looks, so also between two reports of loss: TCP falls within some round
trips, and twenty small datagrams a second are nothing to a path that loses more."""

SETTLE = LOOK
"""Seconds a datagram may be late. TCP has sent again by then what is later."""

REPORT_EVERY = 1.0
"""Seconds between two reports that nothing was lost: how the sender learns what its loss is of."""

EAGER_EVERY, EAGER = 0.25, 60.0
"""Seconds between such reports, for so long after a loss: the sender grows by their steps, and
forgets by itself what is older (``recordsize.STALE``)."""

CREDIT_AGE = 1.0
"""Seconds until an overrun must have shown as something missing; what has not was not for us."""

Line = tuple[int, int]
"""(epoch, lane) of a sender: numbers count up along it."""

MOST = 0xFFFF_FFFF


class Overruns:
    """Datagrams our socket's queue had no room for, and that are not yet seen to be missing."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        """Of the socket, since it was made."""
        self._credit = 0
        self._grew_at = Instant(0.0)

    def counted(self, total: int, now: Instant) -> None:
        if total > self.total:
            self._credit += total - self.total
            self._grew_at = now
        elif now - self._grew_at >= CREDIT_AGE:
            self._credit = 0
        self.total = total

    def take(self, missing: int) -> int:
        """How many of these missing datagrams were ours to lose."""
        ours = min(missing, self._credit)
        self._credit -= ours
        return ours


class LossMeter:
    """For one peer. ``came(n)`` is called for every record that came whole, of n datagrams."""

    __slots__ = (
        "_gaps", "_judged", "_lost_at", "_reported_at", "_tops", "active", "all_lost",
        "all_missing", "datagrams", "lost", "missing", "overrun", "whole",
    )  # fmt: skip

    def __init__(self) -> None:
        self.whole = self.lost = self.datagrams = self.missing = self.overrun = 0
        self.all_lost = self.all_missing = 0
        """Records and datagrams since the beginning, of those reported."""
        self._judged: dict[Line, int] = {}
        self._tops: dict[Line, int] = {}
        self._gaps = 0
        self.active = False
        """Whether anything came that is not judged or not reported."""
        self._reported_at, self._lost_at = Instant(0.0), Instant(-EAGER)

    def came(self, datagrams: int) -> None:
        self.active = True
        self.whole += 1
        self.datagrams += datagrams

    def look(
        self, windows: Mapping[Line, ReplayWindow], torn: tuple[int, int], overruns: Overruns
    ) -> None:
        """Count what did not come. ``windows`` are the numbers accepted by line, ``torn`` the
        (records, datagrams missing of them) that the reassembly holds in vain since last time."""
        self.active = False
        lost = sum(self._judge(line, window) for line, window in windows.items())
        for line in self._tops.keys() - windows.keys():
            del self._tops[line], self._judged[line]
        records, datagrams = torn
        # Torn records are gaps too, be it in the next look: numbers settle when later ones come.
        self._gaps += lost - records
        unseen = max(0, self._gaps)
        self._gaps = min(0, self._gaps) if lost or records else 0
        self.lost += records + unseen
        each = max(1, self.datagrams // self.whole) if self.whole else 1
        whole_loss = datagrams + unseen * each
        ours = overruns.take(whole_loss)
        self.overrun += ours
        # A record of which nothing came was swallowed by something larger than a record: smaller
        # ones would not have helped, so it weighs as one datagram.
        if whole_loss:
            self.missing += round((datagrams + unseen) * (whole_loss - ours) / whole_loss)

    def report(self, now: Instant) -> bytes | None:
        """The body of a REPORT, if one is due; what it says is not said again."""
        if self.missing:
            self._lost_at = now
        else:
            every = EAGER_EVERY if now - self._lost_at < EAGER else REPORT_EVERY
            if not self.datagrams or now - self._reported_at < every:
                self.active = self.active or self.datagrams > 0
                return None
        self._reported_at = now
        self.all_lost += self.lost
        self.all_missing += self.missing
        counts = (self.whole, self.lost, self.datagrams, self.missing, self.overrun)
        self.whole = self.lost = self.datagrams = self.missing = self.overrun = 0
        return REPORT_BODY.pack(*(min(count, MOST) for count in counts))

    # ---- inside

    def _judge(self, line: Line, window: ReplayWindow) -> int:
        """Numbers that were overtaken before the last look and have not come since."""
        top, before = window.top, self._tops.get(line)
        if not top:
            return 0
        self._tops[line] = top
        self.active = self.active or top != before
        if before is None:
            # A new key, or our own start: what was before the first we saw is nothing we missed.
            self._judged[line] = window.first
            return 0
        after, self._judged[line] = self._judged[line], before
        return window.missing(after, before)
