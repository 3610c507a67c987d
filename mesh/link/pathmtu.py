"""The largest datagram that a path carries in one direction (docs/protocol.md 10.6).

Who drives it: ``mesh.link.linkprobe``, which sends the sizes it asks for and tells it what was
answered. Answers are small, so each end measures its own direction.

The search goes up a ladder of sizes that real paths have, and then by halves between the largest
that was answered and the smallest that was not; then a size just above is tried now and then, for
paths that grow. Beside it the size in use is confirmed: when small probes are answered and it is
not, the path is a black hole for it. Source: RFC 8899 (DPLPMTUD), simplified.
"""

from __future__ import annotations

from enum import Enum, auto

from mesh.clock import Instant

BASE = 1200
"""Octets of UDP payload that nearly every path carries: 1,280 (the least IPv6 MTU) less 48 of IPv6
and UDP header less room for one more tunnel."""

FLOOR = 548
"""Octets that every IPv4 host must take (576 less 28): below it a path is of no use to us."""

LADDER = (BASE, 1232, 1372, 1452, 1472, 8952, 8972)
"""Sizes worth asking for at once: payloads of MTU 1280, 1420, 1500 and 9000 over IPv6 and IPv4."""

STEP = 8
"""Octets: sizes are found to this precision, and a path that grew by it is noticed."""

OVERDUE = 0.3
"""Seconds until an answer is overdue; twice the round trip on a path that is longer."""

SEARCH_INTERVAL = 0.2
"""The same for a probe of a new size, where a wrong guess costs nobody anything."""

SEARCH_TRIES = 3
"""Probes of a new size that must go unanswered before it counts as too big."""

GROWTH_INTERVAL = 18.0
"""Seconds between probes of a size above the one in use: three of them within a minute."""

REST_INTERVAL = 10.0
"""Seconds between confirmations of the size in use on a path at rest: they and the ones above are
nearly all that a mesh at rest sends."""

BUSY_INTERVAL = 1.0
"""The same on a path with traffic: a black hole must be found within 3 s."""

BUSY_FOR = 2.5
"""Seconds that traffic makes a path busy: longer than two looks at the counters are apart."""

RETRY = 0.15
"""Seconds between repeated confirmations."""

GIVE_UP = 5
GIVE_UP_LOSSY = 8
"""Confirmations in a row that must go unanswered before the size in use is given up."""

NONE_KNOWN = 1 << 16


class Search(Enum):
    LADDER = auto()
    HALVES = auto()
    DONE = auto()


class PathMtu:
    """Invariant: ``segment`` was answered since the path came up or is BASE or FLOOR under test.

    ``blocked``: not even FLOOR passes, though smaller datagrams do.
    """

    def __init__(self) -> None:
        self.segment = BASE
        self.blocked = False
        self._too_big = NONE_KNOWN
        self._search = Search.LADDER
        self._probing: tuple[int, int] | None = None
        """(size, tries) of the search probe that is out."""
        self._tries = 0
        self._base_passes = False
        """Whether BASE was answered since the size in use was not."""
        self._confirmed_at: Instant | None = None
        self._busy_until: Instant | None = None
        self._confirm_at: Instant | None = None
        self._search_at: Instant | None = None

    @property
    def due(self) -> Instant | None:
        wishes = [w for w in (self._confirm_at, self._search_at) if w is not None]
        return min(wishes, default=None)

    @property
    def is_settled(self) -> bool:
        """Whether ``segment`` is what the path carries, not only what was answered so far."""
        return self._search is Search.DONE

    def begin(self, now: Instant) -> None:
        """The path came up: nothing is known of it, but what freed it when it was blocked."""
        self.segment = FLOOR if self.blocked else BASE
        self.blocked = False
        self._too_big = NONE_KNOWN
        self._restart(now)

    def stop(self) -> None:
        """The path went down."""
        self.segment = BASE
        self._probing = self._confirm_at = self._search_at = None

    def traffic(self, now: Instant) -> None:
        """Frames go over the path: a black hole would hurt somebody."""
        self._busy_until = Instant(now + BUSY_FOR)
        if self._tries == 0 and self._confirm_at is not None:
            at = now if self._confirmed_at is None else self._confirmed_at + BUSY_INTERVAL
            self._confirm_at = Instant(min(self._confirm_at, max(now, at)))

    def answered(self, size: int, now: Instant) -> None:
        """A probe of this size was answered."""
        if size >= BASE:
            self._base_passes = True
        if size >= self.segment:
            self._tries, self._confirmed_at = 0, now
            busy = self._busy_until is not None and now < self._busy_until
            self._confirm_at = Instant(now + (BUSY_INTERVAL if busy else REST_INTERVAL))
        if self._probing is not None and self._probing[0] == size:
            self._probing = None
            if self._search is Search.DONE and size > self.segment:
                # The path grew: what was too big need not be any more.
                self._too_big, self._search = NONE_KNOWN, Search.LADDER
            if self._search is not Search.DONE:
                self._search_at = now
        if self.segment < size < self._too_big:
            self.segment = size

    def too_big(self, size: int, now: Instant) -> None:
        """The kernel knows that datagrams of this size do not fit."""
        self._too_big = min(self._too_big, size)
        if self._probing is not None and self._probing[0] >= size:
            self._probing = None
            if self._search is not Search.DONE:
                self._search_at = now
        if self.segment >= size and not self.blocked:
            self._shrink(now, to=BASE)

    def sizes(self, now: Instant, rtt: float, *, lossy: bool, alive: bool) -> list[int]:
        """What to probe now. ``alive``: small probes are answered; else silence means no size."""
        wanted: list[int] = []
        if not alive and self._tries > 1 and self._confirm_at is not None:
            self._tries, self._confirm_at = 1, Instant(max(now, self._confirm_at) + OVERDUE)
        if self._confirm_at is not None and now >= self._confirm_at:
            limit = GIVE_UP_LOSSY if lossy else GIVE_UP
            if self._tries >= limit:
                self._too_big = min(self._too_big, self.segment)
                self._shrink(now, to=BASE if self._base_passes else FLOOR)
            if not self.blocked:
                if self._tries == 0:
                    self._base_passes = False
                elif self.segment > BASE:
                    wanted.append(BASE)
                self._tries += 1
                patient = self._tries == 1 or self._tries >= limit
                self._confirm_at = Instant(now + (max(OVERDUE, 2 * rtt) if patient else RETRY))
                wanted.append(self.segment)
        if self._search_at is not None and now >= self._search_at:
            size = self._search_on(now, max(SEARCH_INTERVAL, 2 * rtt))
            if size:
                wanted.append(size)
        return wanted

    # ---- inside

    def _restart(self, now: Instant) -> None:
        self._tries, self._probing, self._confirmed_at = 0, None, None
        self._search = Search.LADDER
        self._confirm_at = self._search_at = now

    def _shrink(self, now: Instant, *, to: int) -> None:
        """Go down to ``to`` or FLOOR, prove that it passes, and search again from there."""
        below = min(self.segment, self._too_big)
        if below > FLOOR:
            self.segment = to if below > to else FLOOR
            self._restart(now)
        else:
            self.stop()
            self.segment, self.blocked = FLOOR, True

    def _search_on(self, now: Instant, patience: float) -> int:
        """The size to ask for, 0 for none."""
        if self._search is Search.DONE:
            return self._ask_for_more(now)
        size, tries = self._probing or (0, 0)
        if size and tries >= SEARCH_TRIES:
            self._too_big = min(self._too_big, size)
            self._probing, tries = None, 0
        if self._probing is None:
            tries, size = 0, self._next_size()
        if size == 0:
            self._search, self._search_at = Search.DONE, Instant(now + GROWTH_INTERVAL)
            return 0
        self._probing = (size, tries + 1)
        self._search_at = Instant(now + patience)
        return size

    def _ask_for_more(self, now: Instant) -> int:
        """One probe of a little more than fits: the path may have grown."""
        size = self.segment + STEP
        if size > LADDER[-1]:
            self._search_at = None
            return 0
        self._probing = (size, 1)
        self._search_at = Instant(now + GROWTH_INTERVAL)
        return size

    def _next_size(self) -> int:
        """The next size to ask for, 0 when the search is over."""
        if self._search is Search.LADDER:
            for size in LADDER:
                if self.segment < size < self._too_big:
                    return size
            self._search = Search.HALVES
        if self._too_big - self.segment > STEP and self._too_big < NONE_KNOWN:
            return (self.segment + self._too_big) // 2
        return 0
