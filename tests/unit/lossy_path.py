"""A path that loses datagrams, under simulated time: a source like TCP, the real size of records.

The source sends its window once a round trip, in super-frames of a millisecond's worth (as Linux
sizes them), which are cut into records by the sender's RecordSize. The receiver is a real LossMeter
on a real ReplayWindow; its reports arrive a round trip later. A lost record is one event to the
source, which goes down to 0.7 of its window (CUBIC), or, when nothing came, waits for its timer.
Sending costs processor time by record and by datagram, as measured (docs/sleeve.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from random import Random

from mesh.clock import Instant
from mesh.link.lossmeter import LOOK, LossMeter, Overruns
from mesh.link.recordsize import RecordSize
from mesh.link.replay import ReplayWindow
from mesh.wire.sleeve import REPORT_BODY

PER_RECORD, PER_DATAGRAM = 52e-6, 7.4e-6
"""Seconds of a processor."""

TIMER = 0.2
"""Seconds until TCP sends again what nothing told it of (Linux: TCP_RTO_MIN)."""

LARGEST = 43
MOST_IN_FLIGHT = 2_000
"""Segments of a receive window."""

Channel = Callable[[int], int]
"""How many of so many datagrams in a row get lost."""


def single(chance: Random, share: float) -> Channel:
    """Each datagram for itself."""
    if not share:
        return lambda _: 0
    until = 0

    def lost(datagrams: int) -> int:
        nonlocal until
        count = 0
        while until < datagrams:
            count += 1
            until += 1 + int(log(1 - chance.random()) / log(1 - share))
        until -= datagrams
        return count

    return lost


def bursts(chance: Random, share: float, length: float) -> Channel:
    """Gilbert and Elliott: all is lost in bad states, which last ``length`` datagrams."""
    enter, is_bad = share / length / (1 - share), False

    def lost(datagrams: int) -> int:
        nonlocal is_bad
        count = 0
        for _ in range(datagrams):
            is_bad = chance.random() >= 1 / length if is_bad else chance.random() < enter
            count += is_bad
        return count

    return lost


def short_queue(room: int) -> Channel:
    """A queue that takes no longer run of datagrams."""
    return lambda datagrams: max(0, datagrams - room)


@dataclass
class Run:
    """One transfer. ``fixed`` keeps records at so many datagrams."""

    channel: Channel
    rtt: float
    fixed: int | None = None
    now: float = 1.0
    size: RecordSize = field(default_factory=RecordSize)
    meter: LossMeter = field(default_factory=LossMeter)
    window: ReplayWindow = field(default_factory=ReplayWindow)
    delivered: int = 0
    sent: int = 0
    """Segments."""
    sizes: list[tuple[float, int]] = field(default_factory=list)
    """(time, datagrams of a record) at each change."""

    def __post_init__(self) -> None:
        self._flight, self._threshold = 10.0, float(MOST_IN_FLIGHT)
        self._seq = 0
        self._torn: list[int] = []
        self._overruns = Overruns()
        self._look_at = self.now
        self._reports: deque[tuple[float, bytes]] = deque()

    def go(self, seconds: float) -> float:
        """Segments delivered a second."""
        began, before = self.now, self.delivered
        while self.now < began + seconds:
            self._round()
        return (self.delivered - before) / (self.now - began)

    def sizes_since(self, when: float) -> list[int]:
        return [n for at, n in self.sizes if at >= when]

    # ---- inside

    @property
    def datagrams(self) -> int:
        return self.fixed or self.size.datagrams

    def _round(self) -> None:
        left, spent, came, lost = max(1, int(self._flight)), 0.0, 0, 0
        run = min(LARGEST, max(2, int(left * 1e-3 / self.rtt)))
        while left:
            n = min(left, run, self.datagrams)
            left -= n
            spent += PER_RECORD + n * PER_DATAGRAM
            if self._record(n):
                came += 1
                self.delivered += n
            else:
                lost += 1
            self.sent += n
        self._pass(max(self.rtt, spent))
        if not lost:
            grown = 2 * self._flight if self._flight < self._threshold else self._flight + 1
            self._flight = min(grown, MOST_IN_FLIGHT)
            return
        self._threshold = max(2.0, 0.7 * self._flight)
        self._flight = self._threshold
        if not came:
            self._pass(TIMER)
            self._flight = 2.0

    def _record(self, n: int) -> bool:
        self._seq += 1
        missing = self.channel(n)
        if self.fixed:
            return not missing
        if not missing:
            self.window.accept(self._seq)
            self.meter.came(n)
        elif missing < n:
            self._torn.append(missing)
        return not missing

    def _pass(self, seconds: float) -> None:
        until = self.now + seconds
        while not self.fixed and self._look_at <= until:
            self._look(self._look_at)
            self._look_at += LOOK
        self.now = until

    def _look(self, now: float) -> None:
        torn, self._torn = (len(self._torn), sum(self._torn)), []
        self.meter.look({(1, 0): self.window}, torn, self._overruns)
        report = self.meter.report(Instant(now))
        if report is not None:
            self._reports.append((now + self.rtt, report))
        while self._reports and self._reports[0][0] <= now:
            at, body = self._reports.popleft()
            _, _, came, missing, _ = REPORT_BODY.unpack(body)
            before = self.size.datagrams
            self.size.reported(came, missing, Instant(at))
            if self.size.datagrams != before:
                self.sizes.append((at, self.size.datagrams))
