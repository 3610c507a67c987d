"""Is a neighbour's kernel path well: full-size heartbeats there and back (docs/protocol.md 14.5).

Who drives it: ``mesh.router.fastdp``. A heartbeat is as large as the largest packet of a pod and
takes the very way pods' frames take, and so does its answer, so both ends find out by themselves
what either direction eats. The one that is not answered is followed by others in quick succession,
each with a small one beside it that tells a path that eats large frames from one that is gone.

    DOWN --a full-size answer--> UP --none for 2.4 s--> DOWN
                                  `-- trusted again after a trial: mesh.link.steadiness

Invariant: ``well`` only while full-size answers come, and after a fall not before the trial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.link.steadiness import Steadiness

if TYPE_CHECKING:
    from random import Random

INTERVAL = 1.0
"""Seconds between heartbeats; half of it while on trial."""

OVERDUE = 0.3
"""Seconds an answer may take before it is missed, or twice the round trip."""

QUICK = 0.1
"""Seconds between heartbeats while one is missed."""

DOWN_AFTER = 2.4
"""Seconds of silence that end trust in the path; what is left of 3 s is for routes."""

LOST_AFTER = 3.0
"""Seconds until a heartbeat counts as lost and its answer is not waited for any more."""

EAGER = 10
"""Quick heartbeats with which a path begins: the other end may be a moment behind us."""

PATIENCE = 5
"""Heartbeats of a path that was never answered until we call it silent."""

SMALL = 64
"""Octets of the one that only asks whether anything passes."""

SMOOTHING = 0.125
LATE = 0.25
"""Seconds a timer may be late before we take it that we did not run."""


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """``size``: octets of IP packet it stands for; both ways."""

    nonce: int
    size: int


@dataclass(frozen=True, slots=True)
class Well:
    """Frames may go this way. ``after``: seconds it was answered before."""

    reason: str
    after: float


@dataclass(frozen=True, slots=True)
class Unwell:
    """``silence``: seconds since the last full-size answer."""

    reason: str
    silence: float


HeartbeatEffect = SendHeartbeat | Arm | Notify[Well] | Notify[Unwell]


class Heartbeat:
    """One neighbour's path. ``size``: octets of the largest packet that pods may send."""

    def __init__(self, rng: Random, size: int) -> None:
        self._rng, self._size = rng, size
        self.up = False
        """Full-size heartbeats are answered."""
        self.rtt: float | None = None
        self.reason = "not-probed"
        self._weather = Steadiness()
        self._told = self._has_fallen = False
        self._outstanding: dict[int, tuple[int, Instant]] = {}
        self._answered_at: Instant | None = None
        self._small_at: Instant | None = None
        self._up_at: Instant | None = None
        self._beat_at: Instant | None = None
        self._unanswered = 0
        self._due: Instant | None = None

    @property
    def well(self) -> bool:
        return self.up and self._weather.steady

    @property
    def loss(self) -> float:
        return self._weather.loss

    def resize(self, size: int) -> None:
        """Ask whether packets of another size pass from now on. What is out says nothing of it."""
        if size != self._size:
            self._size = size
            self._outstanding = {n: out for n, out in self._outstanding.items() if out[0] == SMALL}

    def start(self, now: Instant) -> list[HeartbeatEffect]:
        self._beat_at = now
        return self.handle_timer(now)

    def answered(self, nonce: int, size: int, now: Instant) -> list[HeartbeatEffect]:
        """An answer of that size. Only one that is waited for, and whole, counts."""
        sent = self._outstanding.pop(nonce, None)
        if sent is None or sent[0] != size:
            return []
        if size != self._size:
            self._small_at = now
            return []
        rtt = now - sent[1]
        self.rtt = rtt if self.rtt is None else self.rtt + SMOOTHING * (rtt - self.rtt)
        self._answered_at = now
        if not self.up:
            self.up, self._up_at = True, now
            self._outstanding.clear()  # what was lost before says nothing of the path now
        if self._unanswered:
            self._unanswered = 0
            self._beat_at = Instant(now + self._interval())
        self._weather.saw(now, answered=True)
        effects: list[HeartbeatEffect] = []
        self._tell(effects, now)
        return effects + self._arm()

    def handle_timer(self, now: Instant) -> list[HeartbeatEffect]:
        effects: list[HeartbeatEffect] = []
        late = 0.0 if self._due is None else now - self._due
        if late > LATE and self._answered_at is not None:
            self._answered_at = Instant(self._answered_at + late)
        silent_at = self._silent_at()
        if silent_at is not None and now >= silent_at:
            self.up = False
            self._weather.went_down(now)
            self._tell(effects, now)
        if self._beat_at is not None and now >= self._beat_at:
            self._beat(effects, now)
        return effects + self._arm()

    # ---- inside

    def _interval(self) -> float:
        on_trial = self.up and not self._weather.steady
        return INTERVAL * (0.9 + 0.2 * self._rng.random()) / (2 if on_trial else 1)

    def _wait(self) -> float:
        return max(OVERDUE, 2 * (self.rtt or 0.0))

    def _silent_at(self) -> Instant | None:
        if not self.up or self._answered_at is None:
            return None
        return Instant(self._answered_at + DOWN_AFTER + self._wait() - OVERDUE)

    def _beat(self, effects: list[HeartbeatEffect], now: Instant) -> None:
        for nonce, (size, sent) in list(self._outstanding.items()):
            if now - sent > LOST_AFTER:
                del self._outstanding[nonce]
                if size == self._size and self.up:
                    self._weather.saw(now, answered=False)
                    self._tell(effects, now)
        effects.append(self._send(self._size, now))
        self._unanswered += 1
        if self._unanswered > 1:
            effects.append(self._send(SMALL, now))
        if self.up:
            self._beat_at = Instant(now + (self._wait() if self._unanswered == 1 else QUICK))
        else:
            eager = self._answered_at is None and self._unanswered <= EAGER
            self._beat_at = Instant(now + (QUICK if eager else self._interval()))
            self._tell(effects, now)

    def _tell(self, effects: list[HeartbeatEffect], now: Instant) -> None:
        """Say what changed, and why it is so."""
        before = self.reason
        if self.well:
            # The first time nothing is to be proven; after a fall there was a trial.
            self.reason = "proven" if self._has_fallen else "heartbeats-answered"
        elif self.up:
            self.reason = "on-trial" if before != "lossy" and not self._told else "lossy"
        elif self._answered_at is None and self._unanswered < PATIENCE:
            return
        else:
            passes = self._small_at is not None and now - self._small_at < LOST_AFTER
            self.reason = "big-frames-lost" if passes else "heartbeats-unanswered"
        if self.well and not self._told:
            self._told = True
            effects.append(
                Notify(Well(self.reason, 0.0 if self._up_at is None else now - self._up_at))
            )
        elif not self.well and (self._told or self.reason != before):
            self._has_fallen |= self._told
            self._told = False
            silence = 0.0 if self._answered_at is None else now - self._answered_at
            effects.append(Notify(Unwell(self.reason, silence)))

    def _arm(self) -> list[HeartbeatEffect]:
        wishes = [self._beat_at, self._silent_at()]
        self._due = min((w for w in wishes if w is not None), default=None)
        return [Arm(self._due)]

    def _send(self, size: int, now: Instant) -> SendHeartbeat:
        nonce = self._rng.getrandbits(64)
        self._outstanding[nonce] = (size, now)
        return SendHeartbeat(nonce, size)
