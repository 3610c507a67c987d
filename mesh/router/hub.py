"""What the parts of a router share: who we are, the effects in the making, the deadlines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.crypto.identity import Identity
from mesh.crypto.kem import Kem
from mesh.crypto.password import PasswordRing
from mesh.effects import Notify
from mesh.link.overlay import Network
from mesh.names import PeerName, PeerUID, ShortID
from mesh.router.deadlines import Deadlines
from mesh.router.effects import RouterEffect
from mesh.router.events import RouterEvent
from mesh.wire.cipher import Cipher, Offer

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """How this router runs. Ports are UDP or TCP port numbers, ``mtu`` octets of IP packet
    that our pods take at the start."""

    nickname: str
    port: int = 6783
    probe_port: int = 6786
    sleeve_port: int = 6783
    mtu: int = 1400
    limit: int = 200
    discovery: bool = True
    liveness_timeout: float = 5.0
    short_id: ShortID | None = None
    targets: tuple[Target, ...] = ()
    program: str = "weaver"
    ciphers: Offer = field(default_factory=lambda: dict.fromkeys(Cipher, 0))
    """What this host can seal with, as measured at its start."""
    fastdp: bool = False
    """Whether the kernel's fast path is wanted; whether there is one, the driver tells."""
    vxlan_port: int = 6784
    trusted: tuple[Network, ...] = ()
    """Where frames need not be sealed, if the other end thinks so, too."""


@dataclass
class Hub:
    """One per router. ``effects`` is emptied by the router at the end of every input."""

    config: RouterConfig
    identity: Identity
    uid: PeerUID
    passwords: PasswordRing
    kem: Kem
    entropy: Callable[[int], bytes]
    rng: Random
    deadlines: Deadlines = field(default_factory=Deadlines)
    effects: list[RouterEffect] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    now: Instant = field(default=Instant(0.0))
    mtu: int = 0
    """Octets of IP packet that our pods take now."""

    def __post_init__(self) -> None:
        self.mtu = self.config.mtu

    @property
    def us(self) -> PeerName:
        return self.identity.name

    @property
    def encrypted(self) -> bool:
        """Whether the data plane is sealed: it is as soon as there is a password."""
        return bool(self.passwords.passwords)

    def emit(self, effect: RouterEffect) -> None:
        self.effects.append(effect)

    def notify(self, event: RouterEvent) -> None:
        self.effects.append(Notify(event))

    def count(self, reason: str) -> None:
        """One more refusal or drop for this stable reason."""
        self.counters[reason] += 1
