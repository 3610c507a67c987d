"""How large a record may be: large on a clean path, small on one that loses datagrams.

A lost datagram loses its record, and TCP sees one loss of all the segments in it. With a share p
of datagrams lost, records of n lose about n·p of themselves. While that is little, large records
win: a record costs its calls once, and TCP slows down once for it whatever is in it. When it is
much, TCP has too few records in flight to tell it of the loss, and waits for its timer. So n
follows from p, n·p = BUDGET, and as p does not depend on n, growing needs no trial::

    p < 0.06 %   ->  as large as they come
    p = 0.1 %    ->  25 datagrams
    p = 1 %      ->  2 or 3 datagrams
    p > 1.7 %    ->  1 datagram

Where loss does depend on n (a queue that takes no long burst), growing is a trial that fails; the
size it failed at is remembered, and tried again after a pause that doubles with each failure.

Frames that merely wait together are of flows that do not care for our calls, so that sharing a
record may lose them little more than the path does: ``together``, bounded by SHARED_BUDGET.

The receiver says what came and what did not (``mesh.link.lossmeter``). It may say anything: what
it gets for that is small or large records of its own.
"""

from __future__ import annotations

from math import exp, sqrt

from mesh.clock import Instant
from mesh.wire.sleeve import HEADER_SIZE, MAX_RECORD, TAG_SIZE

BUDGET = 0.025
"""Share of records that may be lost. Measured (docs/sleeve.md): the best for CUBIC at every loss;
BBR would be faster with 0.12."""

SHARED_BUDGET = 0.01
"""Share of the records of frames that wait together that may be lost."""

AVERAGES = ((500, 0.25, 2.0, 1), (3_000, 1.0, 1.0, 1), (20_000, 10.0, 0.5, 1_000))
"""Over how many datagrams, and on a path with little traffic seconds, loss is averaged; how many
standard deviations it must be sure of; the datagrams it counts as at the least. A change shows in
the first within a few records, noise ends in the last, and none takes one lost datagram for a
rate."""

GONE = 40
"""Datagrams lost that would have been expected since the last one that was, had it gone on as it
was then: so the loss has gone. Several times what lies between two bursts of five."""

GONE_OF = 300
"""Datagrams of which that rate is at the least."""

GONE_AFTER = 0.2
"""Seconds at the least: what came is reported at once, what is missing two looks later."""

MOST_EXCUSED = 16
"""Probes whose loss is not the records': those of a search for the path's MTU, and some."""

EXCUSES_KEPT = 3
"""Calls of ``age``, that is seconds, within which a probe that was lost is reported, while
anything is. Before that nobody looks for it."""

FLOWING = 2.0
"""Seconds since a report within which another comes: one is due every second."""

MOST_REPORTED = 65_536
"""Datagrams that one report counts for at the most, whatever it says."""

SHRINK_BELOW, GROW_ABOVE = 0.7, 1.6
"""Of the present size: what lies between is noise."""

STEP, STEP_EVERY = 4, 0.25
"""The factor of one step up, and seconds between two: a second from one datagram to 64 KiB."""

TRIAL = 3.0
"""Seconds after a step up in which shrinking means that the step was wrong."""

SETTLED = 0.5
"""Seconds after a size failed until what is lost was sent at a smaller one: some reports and a
round trip. Then the loss is not of that size alone."""

PAUSE_FIRST, PAUSE_MAX = 5.0, 300.0
"""Seconds until a size that was wrong is tried again: of loss, 2 % of the time and then less."""

FIRST_SEGMENT = 1472
"""Octets of a datagram until the path says otherwise: Ethernet's over IPv4."""

STALE = 60.0
"""Seconds without a report after which nothing is known of the path."""


class _Average:
    """Share lost of the last so many datagrams, older ones fading out."""

    __slots__ = ("_age", "_least", "_lost", "_seen", "_span", "_sure")

    def __init__(self, span: int, age: float, sure: float, least: int) -> None:
        self._span, self._age, self._sure, self._least = span, age, sure, least
        self._seen = self._lost = 0.0

    def add(self, seen: float, lost: float, passed: float) -> None:
        fade = exp(-seen / self._span - passed / self._age)
        self._seen = self._seen * fade + seen
        self._lost = self._lost * fade + lost

    @property
    def share(self) -> float:
        """What is lost at the least, as sure as this average has to be."""
        return self.share_of(self._least)

    def share_of(self, least: float) -> float:
        """The same, of so many datagrams at the least."""
        lost = max(0.0, self._lost - self._sure * sqrt(self._lost))
        return lost / max(self._seen, least)


class RecordSize:
    """For one peer. ``limit`` and ``together`` are octets of a record's payload before sealing.

    Invariant: 1 <= datagrams <= most, and limit is what so many datagrams of the path hold.
    """

    __slots__ = (
        "_averages", "_ceiling", "_changed_at", "_clean", "_excuses", "_failed_at", "_grew_at",
        "_grew_from", "_heed_at", "_is_elsewhere", "_is_of_all", "_last_loss", "_missed_at",
        "_most", "_owed", "_pause", "_payload", "_reported_at", "_retry_at", "_segment", "_via",
        "datagrams", "limit", "together",
    )  # fmt: skip

    def __init__(self) -> None:
        self._via: object = None
        self.datagrams, self._clean, self._last_loss = 1, 0, 0.0
        self._excuses = [0] * EXCUSES_KEPT
        """Probes that may still be reported missing, by age."""
        self._owed = 0
        self._is_elsewhere, self._heed_at = False, Instant(0.0)
        self._ceiling: int | None = None
        self._failed_at, self._is_of_all = Instant(0.0), False
        self._reported_at, self._missed_at = Instant(0.0), Instant(0.0)
        self._averages: tuple[_Average, ...] = ()
        self._use(FIRST_SEGMENT)
        self._start()

    @property
    def segment(self) -> int:
        """Octets of the datagrams that sizes are counted in."""
        return self._segment

    @property
    def most(self) -> int:
        """Datagrams of the largest record on the present path."""
        return self._most

    @property
    def loss(self) -> float:
        """Share of datagrams the path is taken to lose."""
        return max(average.share for average in self._averages)

    def follow(self, via: object, segment: int) -> None:
        """What we send goes this way, in datagrams of ``segment`` octets. Another way starts
        anew, another size of datagrams does not."""
        if segment != self._segment:
            at_most = self.datagrams >= self._most
            self._use(segment)
            self.datagrams = self._most if at_most else min(self.datagrams, self._most)
            self._decide(self._reported_at)
        if via != self._via:
            if self._via is not None:
                self._start()
                self._is_elsewhere = True  # the next reports are of what went the other way
            self._via = via

    def reported(self, came: int, missing: int, now: Instant) -> None:
        """What became of our datagrams at their receiver since it last said so."""
        if self._is_elsewhere:
            self._is_elsewhere, self._heed_at = False, Instant(now + SETTLED)
        missing = self._unexcused(missing)
        seen = came + missing
        if not seen or now < self._heed_at:
            return
        counted = min(seen, MOST_REPORTED)
        passed = max(0.0, now - self._reported_at)
        self._reported_at = now
        self._clean = 0 if missing else self._clean + counted
        if self._clean * self._last_loss >= GONE and now - self._missed_at >= GONE_AFTER:
            self._forget()
            if self._is_of_all:
                # What failed, failed for the loss that has gone and not for its size.
                self._ceiling, self._pause, self._is_of_all = None, PAUSE_FIRST, False
        for average in self._averages:
            average.add(counted, missing * counted / seen, passed)
        if missing:
            self._missed_at, self._last_loss = now, self._averages[-1].share_of(GONE_OF)
            below = self._ceiling is not None and self.datagrams < self._ceiling
            if below and now - self._failed_at >= SETTLED:
                self._is_of_all = True
        self._decide(now)

    def probed(self, octets: int, *, straight: bool) -> None:
        """A probe goes out under one of the numbers of our records. Its loss is no news of the path
        of our records where it is larger than these, or they do not go ``straight`` as it does."""
        is_one_of_them = straight and octets <= self._segment
        if not is_one_of_them and sum(self._excuses) < MOST_EXCUSED:
            self._excuses[0] += 1

    def answered(self, octets: int, *, straight: bool) -> None:
        """That probe did come. What it excused meanwhile was another's loss."""
        if straight and octets <= self._segment:
            return
        for n, count in enumerate(self._excuses):
            if count:
                self._excuses[n] -= 1
                return
        self._owed = min(MOST_EXCUSED, self._owed + 1)

    def age(self, now: Instant) -> None:
        """Call it every second: what is known of a path that is not used fades. On one that is, a
        probe that nobody reported missing by now is not: its answer was lost."""
        if now - self._reported_at < FLOWING:
            self._excuses = [0, *self._excuses[:-1]]
        if now - self._reported_at >= STALE and self.datagrams < self._most:
            self._forget()
            self._decide(now)

    # ---- inside

    def _unexcused(self, missing: int) -> int:
        """Of what is missing, what was no probe; the oldest probes were so first."""
        for n in range(EXCUSES_KEPT - 1, -1, -1):
            excused = min(missing, self._excuses[n])
            self._excuses[n] -= excused
            missing -= excused
        missing += self._owed
        self._owed = 0
        return missing

    def _use(self, segment: int) -> None:
        self._segment = segment
        self._payload = max(1, segment - HEADER_SIZE)
        self._most = -(-MAX_RECORD // self._payload)

    def _start(self) -> None:
        self._forget()
        self._ceiling, self._failed_at, self._is_of_all = None, Instant(0.0), False
        self._pause = PAUSE_FIRST
        self._retry_at = self._changed_at = Instant(0.0)
        self._reported_at = Instant(0.0)
        self._grew_at: Instant | None = None
        self._grew_from = 1
        self._set(self._most, self._most)

    def _forget(self) -> None:
        """What was lost so far says nothing of what will be."""
        self._clean, self._last_loss = 0, 0.0
        self._averages = tuple(_Average(*settings) for settings in AVERAGES)

    def _decide(self, now: Instant) -> None:
        loss, present = self.loss, self.datagrams
        wanted = self._within(BUDGET, loss)
        if self._grew_at is not None and now - self._grew_at >= TRIAL:
            self._grew_at = None
            if self._ceiling is not None and present >= self._ceiling:
                self._ceiling, self._pause = None, PAUSE_FIRST
        if wanted < SHRINK_BELOW * present:
            self._shrink(round(wanted), now)
        elif now - self._changed_at >= STEP_EVERY and (
            wanted >= GROW_ABOVE * present or wanted >= self._most > present
        ):
            self._grow(min(round(wanted), STEP * present), now)
        together = int(self._within(SHARED_BUDGET, loss))
        self._set(self.datagrams, max(1, min(together, self.datagrams)))

    def _within(self, budget: float, loss: float) -> float:
        """Datagrams of a record that is lost no more often than that."""
        return float(self._most) if loss * self._most <= budget else max(1.0, budget / loss)

    def _shrink(self, wanted: int, now: Instant) -> None:
        if self._grew_at is not None:
            # The change was ours, so it may be the size that the path does not take: what was
            # lost of it says nothing of the size before.
            self._ceiling, self._failed_at = self.datagrams, now
            self._retry_at = Instant(now + self._pause)
            self._pause = min(PAUSE_MAX, 2 * self._pause)
            wanted = max(wanted, self._grew_from)
            self._forget()
        self._grew_at = None
        self._changed_at = now
        self.datagrams = wanted

    def _grow(self, wanted: int, now: Instant) -> None:
        if self._ceiling is not None and now < self._retry_at:
            wanted = min(wanted, self._ceiling // 2)
        if wanted <= self.datagrams:
            return
        self._grew_from, self._grew_at, self._changed_at = self.datagrams, now, now
        self.datagrams = wanted

    def _set(self, datagrams: int, together: int) -> None:
        self.datagrams = datagrams
        self.limit = self._octets(datagrams)
        self.together = min(self.limit, self._octets(together))

    def _octets(self, datagrams: int) -> int:
        if datagrams >= self._most:
            return MAX_RECORD
        return max(1, datagrams * self._payload - TAG_SIZE)
