"""The direct data path to one neighbour: does it work, how fast, how large (docs/protocol.md 10.6).

Who drives it: ``mesh.router.links``; probes travel through the worker, over the very port and
with the very sizes that frames will use.

    DOWN --a small probe answered--> UP --3 s unanswered--> DOWN
                                      `-- probes of growing size: the segment

The search goes up a ladder of sizes that real paths have, and then by halves between the largest
that was answered and the smallest that was not. A size that stops being answered while small
probes are (a black hole) takes the segment back down. Source: RFC 8899 (DPLPMTUD), simplified:
its probe sizes, its confirmation, its black-hole detection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.effects import Arm, Notify

if TYPE_CHECKING:
    from random import Random

INTERVAL = 1.0
"""Seconds between probes of a path, also of one that is down."""

FULL_INTERVAL = 5.0
"""Seconds between answered probes of full size: they are nearly all that a mesh at rest sends."""

SEARCH_INTERVAL = 0.2
"""Seconds a probe of a new size may take before it is sent again."""

DOWN_AFTER = 3.0
"""Seconds of unanswered probes that end a link."""

SIZE_TRIES = 3
"""Probes of one size that must go unanswered before it counts as too big."""

BASE = 1200
"""Octets of UDP payload that every path must carry: 1,280 (the least IPv6 MTU) less 48 of IPv6
and UDP header less room for one more tunnel."""

BEAT_SIZE = 64
"""Octets of UDP payload of the probe that only asks whether the path works."""

LADDER = (1232, 1372, 1452, 1472, 8952, 8972)
"""Sizes worth asking for at once: payloads of MTU 1280, 1420, 1500 and 9000 over IPv6 and IPv4."""

SEARCH_AGAIN = 600.0
"""Seconds until a larger size is tried again: paths grow rarely."""

SMOOTHING = 0.125
"""Weight of a new round trip in the smoothed one (RFC 6298)."""

LATE = 0.25
"""Seconds a timer may be late before we take it that we did not run: answers that wait for us in
a queue are not silence."""


@dataclass(frozen=True, slots=True)
class SendProbe:
    nonce: int
    size: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    rtt: float
    segment: int


@dataclass(frozen=True, slots=True)
class LinkDown:
    reason: str


@dataclass(frozen=True, slots=True)
class SegmentChanged:
    segment: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The smoothed round trip in seconds."""

    rtt: float


LinkEffect = (
    SendProbe | Arm | Notify[LinkUp] | Notify[LinkDown] | Notify[SegmentChanged] | Notify[Measured]
)


class Search(Enum):
    LADDER = auto()
    HALVES = auto()
    DONE = auto()


class LinkProbe:
    """Invariant: ``segment`` was answered, and no larger size was since it was last too big."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.up = False
        self.rtt: float | None = None
        self.segment = BASE
        self._too_big = 1 << 16
        self._search = Search.LADDER
        self._probing: tuple[int, int] | None = None
        """(size, tries) of the search probe that is out."""
        self._outstanding: dict[int, tuple[int, Instant]] = {}
        self._answered_at: Instant | None = None
        self._full_tries = 0
        self._full_answered_at: Instant | None = None
        self._beat_at: Instant | None = None
        self._search_at: Instant | None = None
        self._due: Instant | None = None

    def start(self, now: Instant) -> list[LinkEffect]:
        self._beat_at = now
        return self.handle_timer(now)

    def replied(self, nonce: int, size: int, rtt: float, now: Instant) -> list[LinkEffect]:
        """An authenticated answer to the probe of that nonce."""
        sent = self._outstanding.pop(nonce, None)
        if sent is None or sent[0] != size:
            return []
        self._answered_at = now
        effects: list[LinkEffect] = []
        if size <= BASE:
            self.rtt = rtt if self.rtt is None else self.rtt + SMOOTHING * (rtt - self.rtt)
            effects.append(Notify(Measured(self.rtt)))
        if not self.up:
            self.up = True
            self._full_tries = 0
            self._search, self._search_at = Search.LADDER, now
            self._too_big = 1 << 16
            effects.append(Notify(LinkUp(rtt, self.segment)))
        if size >= self.segment:
            self._full_tries, self._full_answered_at = 0, now
        if self._probing is not None and self._probing[0] == size:
            self._probing = None
            self._search_at = now
        if size > self.segment and size < self._too_big:
            self.segment = size
            effects.append(Notify(SegmentChanged(size)))
        return effects + self._step(now)

    def too_big(self, size: int, now: Instant) -> list[LinkEffect]:
        """The kernel knows that datagrams of this size do not fit."""
        effects: list[LinkEffect] = []
        self._too_big = min(self._too_big, size)
        if self._probing is not None and self._probing[0] >= size:
            self._probing = None
        if self.segment >= size:
            self._shrink(effects)
        if self._search is not Search.DONE:
            self._search_at = now
        return effects + self._step(now)

    def handle_timer(self, now: Instant) -> list[LinkEffect]:
        effects: list[LinkEffect] = []
        late = 0.0 if self._due is None else now - self._due
        if late > LATE and self._answered_at is not None:
            self._answered_at = Instant(self._answered_at + late)
        # Compared as it was armed: a difference of floats may fall short of the sum's deadline.
        if self._answered_at is not None and self.up and now >= self._answered_at + DOWN_AFTER:
            self.up = False
            self._probing = self._search_at = None
            self.segment = BASE
            effects.append(Notify(LinkDown("probes-unanswered")))
        if self._beat_at is not None and now >= self._beat_at:
            self._beat(effects, now)
        return effects + self._step(now)

    # ---- inside

    def _beat(self, effects: list[LinkEffect], now: Instant) -> None:
        """The small probe that says whether the path works; at times one of full size beside it.

        One of full size that stays unanswered is followed by others at every beat.
        """
        spread = 0.9 + 0.2 * self._rng.random()
        self._beat_at = Instant(now + INTERVAL * spread)
        for nonce, (_, sent) in list(self._outstanding.items()):
            if now - sent > DOWN_AFTER:
                del self._outstanding[nonce]
        effects.append(self._send(BEAT_SIZE, now))
        if not self.up or self.segment <= BASE:
            return
        answered = self._full_answered_at
        if answered is not None and now < answered + FULL_INTERVAL:
            return
        if self._full_tries >= SIZE_TRIES:
            self._too_big = min(self._too_big, self.segment)
            self._shrink(effects)
            self._search, self._search_at = Search.LADDER, now
        else:
            self._full_tries += 1
            effects.append(self._send(self.segment, now))

    def _shrink(self, effects: list[LinkEffect]) -> None:
        self.segment = BASE
        self._full_tries = 0
        self._search = Search.LADDER
        effects.append(Notify(SegmentChanged(BASE)))

    def _step(self, now: Instant) -> list[LinkEffect]:
        """Go on with the search when its time has come, and arm for what is next."""
        effects: list[LinkEffect] = []
        if self.up and self._search_at is not None and now >= self._search_at:
            self._search_on(effects, now)
        wishes = [w for w in (self._beat_at, self._search_at) if w is not None]
        if self.up and self._answered_at is not None:
            wishes.append(Instant(self._answered_at + DOWN_AFTER))
        self._due = min(wishes, default=None)
        effects.append(Arm(self._due))
        return effects

    def _search_on(self, effects: list[LinkEffect], now: Instant) -> None:
        if self._search is Search.DONE:
            # Long enough: the path may carry more than it did.
            self._too_big = 1 << 16
            self._search = Search.LADDER
        size, tries = self._probing or (0, 0)
        if size and tries >= SIZE_TRIES:
            self._too_big = min(self._too_big, size)
            self._probing, tries = None, 0
        if self._probing is None:
            tries = 0
            size = self._next_size()
        if size == 0:
            self._search, self._search_at = Search.DONE, Instant(now + SEARCH_AGAIN)
            return
        self._probing = (size, tries + 1)
        self._search_at = Instant(now + SEARCH_INTERVAL)
        effects.append(self._send(size, now))

    def _next_size(self) -> int:
        """The next size to ask for, 0 when the search is over."""
        if self._search is Search.LADDER:
            for size in LADDER:
                if self.segment < size < self._too_big:
                    return size
            self._search = Search.HALVES
        if self._too_big - self.segment > 8 and self._too_big < 1 << 16:
            return (self.segment + self._too_big) // 2
        return 0

    def _send(self, size: int, now: Instant) -> SendProbe:
        nonce = self._rng.getrandbits(64)
        self._outstanding[nonce] = (size, now)
        return SendProbe(nonce, size)
