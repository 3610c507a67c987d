"""The direct data path to one neighbour: does it work, how fast, how large (docs/protocol.md 10.6).

Who drives it: ``mesh.router.links``; probes travel through the worker, over the very port and
with the very sizes that frames will use.

    DOWN --a small probe answered--> UP --nothing answered--> DOWN
                                      `-- probes of full size: mesh.link.pathmtu

A small probe that is not answered is followed by others in quick succession, so that silence is
told from loss within 3 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.link.pathmtu import FLOOR, OVERDUE, PathMtu
from mesh.link.steadiness import Steadiness

if TYPE_CHECKING:
    from random import Random

INTERVAL = 1.0
"""Seconds between probes of a path, also of one that is down; half of it while on trial."""

FIRST = 0.05
"""Seconds until a path that is new is asked again, then twice as long each time up to
``INTERVAL``: the other end may not be ready to answer yet."""

QUICK = 0.1
"""Seconds between probes of a path whose last one is overdue."""

DOWN_AFTER = 2.4
"""Seconds of silence that end a link: a beat, its time and ten quick ones, and what is left of 3 s
is for routes to be made anew."""

LOST_AFTER = 3.0
"""Seconds until a probe counts as lost and its answer is not waited for any more."""

BEAT_SIZE = 64
"""Octets of UDP payload of the probe that only asks whether the path works."""

SMOOTHING = 0.125
"""Weight of a new round trip in the smoothed one (RFC 6298)."""

COST_SAMPLES = 32
"""Round trips whose mean is the path's cost: jitter must not move routes."""

FEW_SAMPLES = 8
"""Round trips of which, while there are no more, the shortest is the cost: whoever just started
is busy, and answers late what the path carried fast."""

MOVED = 2.0
"""How many times the mean the smoothed round trip must be, or less, for a new mean to begin."""

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
    """``silence``: seconds since the last answer."""

    reason: str
    silence: float


@dataclass(frozen=True, slots=True)
class SegmentChanged:
    segment: int


@dataclass(frozen=True, slots=True)
class SteadyChanged:
    """``after``: seconds the path was up before it was trusted or no longer was."""

    steady: bool
    after: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The smoothed round trip in seconds."""

    rtt: float


LinkEvent = LinkUp | LinkDown | SegmentChanged | SteadyChanged | Measured
LinkEffect = (
    SendProbe
    | Arm
    | Notify[LinkUp]
    | Notify[LinkDown]
    | Notify[SegmentChanged]
    | Notify[SteadyChanged]
    | Notify[Measured]
)


class LinkProbe:
    """Invariant: ``segment`` follows ``PathMtu``'s, ``steady`` and ``loss`` ``Steadiness``'s."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.up = False
        self.rtt: float | None = None
        self.cost_rtt: float | None = None
        """The mean of many round trips: what routes go by."""
        self._samples = 0
        self._mtu = PathMtu()
        self._weather = Steadiness()
        self._outstanding: dict[int, tuple[int, Instant]] = {}
        self._answered_at: Instant | None = None
        self._up_at: Instant | None = None
        self._beat_at: Instant | None = None
        self._unanswered = 0
        """Small probes since the last answer."""
        self._patience = INTERVAL
        """Seconds until a path that is down is asked again, but for a little chance."""
        self._due: Instant | None = None

    @property
    def segment(self) -> int:
        return self._mtu.segment

    @property
    def is_settled(self) -> bool:
        """Whether the search for the segment is over."""
        return self._mtu.is_settled

    @property
    def loss(self) -> float:
        return self._weather.loss

    @property
    def steady(self) -> bool:
        return self._weather.steady

    def start(self, now: Instant) -> list[LinkEffect]:
        self._beat_at = now
        self._patience = FIRST
        return self.handle_timer(now)

    def replied(self, nonce: int, size: int, rtt: float, now: Instant) -> list[LinkEffect]:
        """An authenticated answer to the probe of that nonce."""
        sent = self._outstanding.pop(nonce, None)
        if sent is None or sent[0] != size:
            return []
        effects: list[LinkEffect] = []
        self._answered_at = now
        if self._unanswered:
            self._unanswered = 0
            self._beat_at = Instant(now + self._interval())
        if size == BEAT_SIZE:
            self._measure(rtt)
            self._saw(effects, now, answered=True)
            effects.append(Notify(Measured(rtt if self.rtt is None else self.rtt)))
        if not self.up and not (self._mtu.blocked and size < FLOOR):
            self.up, self._up_at = True, now
            self._outstanding.clear()  # what was lost before says nothing of the path now
            self._mtu.begin(now)
            effects.append(Notify(LinkUp(rtt, self.segment)))
        if self.up:
            before = self._found
            self._mtu.answered(size, now)
            self._tell_segment(effects, before)
        return effects + self._step(now)

    def too_big(self, size: int, now: Instant) -> list[LinkEffect]:
        """The kernel knows that datagrams of this size do not fit."""
        effects: list[LinkEffect] = []
        if self.up:
            before = self._found
            self._mtu.too_big(size, now)
            self._tell_segment(effects, before)
        return effects + self._step(now)

    def traffic(self, now: Instant) -> list[LinkEffect]:
        """Frames go over this path."""
        if not self.up:
            return []
        self._mtu.traffic(now)
        return self._step(now)

    def handle_timer(self, now: Instant) -> list[LinkEffect]:
        effects: list[LinkEffect] = []
        late = 0.0 if self._due is None else now - self._due
        if late > LATE and self._answered_at is not None:
            self._answered_at = Instant(self._answered_at + late)
        silent = self._silent_at()
        if silent is not None and now >= silent:
            self._go_down(effects, "probes-unanswered", now)
        if self._beat_at is not None and now >= self._beat_at:
            self._beat(effects, now)
        return effects + self._step(now)

    # ---- inside

    def _interval(self) -> float:
        on_trial = self.up and not self.steady
        return INTERVAL * (0.9 + 0.2 * self._rng.random()) / (2 if on_trial else 1)

    def _wait(self) -> float:
        return max(OVERDUE, 2 * (self.rtt or 0.0))

    def _silent_at(self) -> Instant | None:
        """When silence ends the link."""
        if not self.up or self._answered_at is None:
            return None
        return Instant(self._answered_at + DOWN_AFTER + self._wait() - OVERDUE)

    def _measure(self, rtt: float) -> None:
        self._samples = min(self._samples + 1, COST_SAMPLES)
        if self.rtt is None or self.cost_rtt is None or self._samples == 1:
            self.rtt = self.cost_rtt = rtt
            return
        if self._samples <= FEW_SAMPLES:
            self.rtt = self.cost_rtt = min(self.cost_rtt, rtt)
            return
        self.rtt += SMOOTHING * (rtt - self.rtt)
        mean = self.cost_rtt
        if not mean / MOVED < self.rtt < mean * MOVED:
            # No jitter: the path is another. The mean of before would take minutes to fade.
            mean, self._samples = self.rtt, FEW_SAMPLES
        self.cost_rtt = mean + (rtt - mean) / self._samples

    def _go_down(self, effects: list[LinkEffect], reason: str, now: Instant) -> None:
        self.up = False
        self._samples = 0  # it may come back by another way
        self._mtu.stop()
        self._weather.went_down(now)
        silence = 0.0 if self._answered_at is None else now - self._answered_at
        effects.append(Notify(LinkDown(reason, silence)))

    def _saw(self, effects: list[LinkEffect], now: Instant, *, answered: bool) -> None:
        before = self.steady
        self._weather.saw(now, answered=answered)
        if self.steady != before:
            after = 0.0 if self._up_at is None else now - self._up_at
            effects.append(Notify(SteadyChanged(self.steady, after)))

    def _beat(self, effects: list[LinkEffect], now: Instant) -> None:
        """The small probe that says whether the path works."""
        for nonce, (size, sent) in list(self._outstanding.items()):
            if now - sent > LOST_AFTER:
                del self._outstanding[nonce]
                if size == BEAT_SIZE and self.up:
                    self._saw(effects, now, answered=False)
        effects.append(self._send(BEAT_SIZE, now))
        if not self.up:
            self._beat_at = Instant(now + self._patience * self._interval())
            self._patience = min(2 * self._patience, INTERVAL)
            if self._mtu.blocked:
                effects.append(self._send(FLOOR, now))
            return
        self._unanswered += 1
        self._beat_at = Instant(now + (self._wait() if self._unanswered == 1 else QUICK))

    @property
    def _found(self) -> tuple[int, bool]:
        return self.segment, self.is_settled

    def _tell_segment(self, effects: list[LinkEffect], before: tuple[int, bool]) -> None:
        if self._found != before:
            effects.append(Notify(SegmentChanged(self.segment)))

    def _step(self, now: Instant) -> list[LinkEffect]:
        """Go on with the search when its time has come, and arm for what is next."""
        effects: list[LinkEffect] = []
        if self.up:
            before = self._found
            sizes = self._mtu.sizes(
                now, self.rtt or 0.0, lossy=self._weather.is_lossy, alive=self._unanswered < 2
            )
            effects += [self._send(size, now) for size in sizes]
            self._tell_segment(effects, before)
            if self._mtu.blocked:
                self._go_down(effects, "big-datagrams-lost", now)
        wishes = [self._beat_at, self._silent_at(), self._mtu.due]
        self._due = min((w for w in wishes if w is not None), default=None)
        effects.append(Arm(self._due))
        return effects

    def _send(self, size: int, now: Instant) -> SendProbe:
        nonce = self._rng.getrandbits(64)
        self._outstanding[nonce] = (size, now)
        return SendProbe(nonce, size)
