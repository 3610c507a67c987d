"""Is a neighbour alive? Probes, suspicion, and the benefit of the doubt (docs/protocol.md 9).

Who drives it: ``mesh.router.vigil``. Anything heard of the peer, on either port, is a sign of
life.

    ALIVE --60 % of the timeout silent--> SUSPECTED --the rest silent--> DEAD
      ^-----anything heard---------------------'
              a neighbour vouches: the timeout begins again, three times at most

A host that was itself not scheduled hears nobody: when our own timer fires late, every deadline
moves by as much, so a starved peer declares nobody dead.
Source: A. Das, I. Gupta, A. Motivala, "SWIM", 2002, for suspicion and indirect witnesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.names import PeerName
from mesh.wire.probe import Probe

if TYPE_CHECKING:
    from random import Random

INTERVAL = 1.0
"""Seconds between probes at the default timeout of 5 s; always a fifth of the timeout."""

SUSPECT_AT = 0.6
"""Share of the timeout after which others are asked."""

MAX_VOUCHES = 3
"""Timeouts a suspect gets on the word of others. More would let one liar keep the dead alive."""

LATE = 0.05
"""Lateness of our own timer that counts as starvation, as a share of the timeout: a loop that is
busy is a few hundredths of a second late."""

REMEMBERED = 16
"""Probes whose sending time is kept: an echo later than that measures nothing of use."""

CLOCKS_DIFFER = 1e-3
"""Seconds by which two clocks may count the time differently that a probe was held. A peer that
claims to have held one for longer than it was away, and more than that, is not believed."""

SMOOTHING = 0.125
"""Weight of a new round trip in the smoothed one (RFC 6298's alpha)."""


class ReplayedProbeError(MalformedMessageError):
    """Heard before, or overtaken by a later one on the way. It proves nothing."""

    reason = "replayed"


@dataclass(frozen=True, slots=True)
class SendProbe:
    data: bytes


@dataclass(frozen=True, slots=True)
class AskOthers:
    """Ask neighbours of ours whether they hear this peer."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The smoothed round trip in seconds."""

    rtt: float


@dataclass(frozen=True, slots=True)
class Suspect:
    """Nothing heard for most of the timeout."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Nothing heard for the whole of it, and nobody vouched."""


LivenessEffect = SendProbe | AskOthers | Arm | Notify[Measured] | Notify[Suspect] | Notify[Dead]


class Liveness:
    """Watches one neighbour over one connection."""

    def __init__(
        self, us: PeerName, peer: PeerName, key: bytes, rng: Random, *, timeout: float = 5.0
    ) -> None:
        self._us, self._peer, self._key, self._rng = us, peer, key, rng
        self._timeout = timeout
        self._interval = INTERVAL * timeout / 5.0
        self._sequence = 0
        self._heard_sequence = 0
        self._heard_probe_at: Instant | None = None
        self._sent: dict[int, Instant] = {}
        self._silent_since: Instant | None = None
        self._next_probe: Instant | None = None
        self._wake: Instant | None = None
        self._vouches = 0
        self._suspected = False
        self._dead = False
        self.rtt: float | None = None

    def start(self, now: Instant) -> list[LivenessEffect]:
        self._silent_since = now
        return self._probe(now)

    def receive_probe(self, data: bytes, now: Instant) -> list[LivenessEffect]:
        """A datagram that says it is this peer's. Raises MalformedMessageError when it lies, and
        then nothing has changed."""
        probe = Probe.decode(data, self._key)
        if (probe.sender, probe.receiver) != (self._peer, self._us):
            raise MalformedMessageError("a probe for somebody else")
        if probe.sequence <= self._heard_sequence:
            raise ReplayedProbeError(f"probe {probe.sequence} again")
        self._heard_sequence, self._heard_probe_at = probe.sequence, now
        effects = self.heard(now)
        sent = self._sent.pop(probe.echo, None)
        if sent is None:
            return effects
        sample = now - sent - probe.held_us / 1e6
        if sample >= -CLOCKS_DIFFER:
            sample = max(0.0, sample)
            self.rtt = sample if self.rtt is None else self.rtt + SMOOTHING * (sample - self.rtt)
            effects.append(Notify(Measured(self.rtt)))
        return effects

    def heard(self, now: Instant) -> list[LivenessEffect]:
        """Any sign of life, on whatever port."""
        if self._dead:
            return []
        self._silent_since = now
        self._vouches = 0
        self._suspected = False
        return []

    def vouched(self, now: Instant) -> list[LivenessEffect]:
        """Another neighbour heard the peer lately."""
        if self._suspected and not self._dead and self._vouches < MAX_VOUCHES:
            self._vouches += 1
            self._silent_since = now
            self._suspected = False
        return []

    def handle_timer(self, now: Instant) -> list[LivenessEffect]:
        if self._dead or self._wake is None or self._silent_since is None:
            return []
        late = now - self._wake
        if late > LATE * self._timeout:
            self._silent_since = Instant(self._silent_since + late)
        # Compared as they were armed: a difference of floats may fall short of the sum's deadline.
        if now >= self._silent_since + self._timeout:
            self._dead = True
            return [Arm(None), Notify(Dead())]
        effects: list[LivenessEffect] = []
        if now >= self._silent_since + SUSPECT_AT * self._timeout and not self._suspected:
            self._suspected = True
            effects += [AskOthers(), Notify(Suspect())]
        if self._next_probe is not None and now >= self._next_probe:
            return effects + self._probe(now)
        return [*effects, self._arm(now)]

    def _probe(self, now: Instant) -> list[LivenessEffect]:
        self._sequence += 1
        self._sent[self._sequence] = now
        self._sent.pop(self._sequence - REMEMBERED, None)
        held = 0 if self._heard_probe_at is None else int((now - self._heard_probe_at) * 1e6)
        probe = Probe(
            self._us,
            self._peer,
            self._sequence,
            self._heard_sequence,
            min(held, 2**32 - 1),
        )
        spread = 0.9 + 0.2 * self._rng.random()
        self._next_probe = Instant(now + self._interval * spread)
        return [SendProbe(probe.encode(self._key)), self._arm(now)]

    def _arm(self, now: Instant) -> Arm:
        assert self._silent_since is not None
        assert self._next_probe is not None
        share = 1.0 if self._suspected else SUSPECT_AT
        limit = Instant(self._silent_since + share * self._timeout)
        # A limit that has passed was acted upon: what comes next is the probe, or the end.
        if limit <= now:
            limit = Instant(self._silent_since + self._timeout)
        self._wake = min(self._next_probe, limit)
        return Arm(self._wake)
