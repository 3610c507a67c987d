"""One neighbour's path in the kernel, as ``mesh.router.fastdp`` keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.clock import Instant
from mesh.connection.bucket import Bucket
from mesh.link.heartbeat import Heartbeat
from mesh.names import PeerUID

ANSWERS_A_SECOND, ANSWERS_AT_ONCE = 30, 60
"""Heartbeats of a neighbour that are answered: while it misses ours it sends 20 a second."""


@dataclass(slots=True)
class FastPath:
    """A neighbour's path in the kernel. ``trusts``: what it says of our address."""

    host: str
    uid: PeerUID
    trusts: bool
    port: int
    connected: bool = True
    restarted: bool = False
    """Its peer has started again and has not answered since: silence until it does is the new
    daemon's that is not ready yet, and says nothing of the way."""
    obstacle: str | None = "not-probed"
    heart: Heartbeat | None = None
    since: Instant = field(default=Instant(0.0))
    answered_at: Instant | None = None
    carries: int | None = None
    """Octets of a pod's packet that the way there is known to carry, once it is."""
    mtu: int = 0
    """Octets of the largest packet of pods that goes this way: what heartbeats ask for."""
    answers: Bucket = field(
        default_factory=lambda: Bucket(rate=ANSWERS_A_SECOND, burst=ANSWERS_AT_ONCE)
    )

    @property
    def well(self) -> bool:
        return self.obstacle is None and self.heart is not None and self.heart.well

    @property
    def reason(self) -> str:
        if self.obstacle is not None:
            return self.obstacle
        return "not-probed" if self.heart is None else self.heart.reason
