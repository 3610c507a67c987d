"""By which overlay and path frames reach each peer, since when and why: a short history a pair.

Who drives it: ``mesh.router.links``, whenever routes or links changed. Only a change of overlay,
path or next hop is a new choice; why it was made stays with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mesh.clock import Instant
from mesh.link.overlay import Overlay
from mesh.names import PeerName

HISTORY = 8
"""Choices remembered of each pair."""


class Path(StrEnum):
    DIRECT = "direct"
    RELAYED = "relayed"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Choice:
    """``after``: where the direct path was given up, seconds since it was last answered; where it
    was taken, seconds since it was answered again; None where it played no part.

    ``not_kernel``: why frames do not go by the kernel, "" where they do."""

    overlay: Overlay
    path: Path
    next_hop: PeerName | None
    reason: str
    at: Instant
    after: float | None = None
    not_kernel: str = ""

    def differs(self, other: Choice) -> bool:
        ours = (self.overlay, self.path, self.next_hop)
        return ours != (other.overlay, other.path, other.next_hop)


class Choices:
    """Invariant: two choices of a pair that follow each other differ."""

    def __init__(self) -> None:
        self._made: dict[PeerName, deque[Choice]] = {}

    def made(self, peer: PeerName) -> Sequence[Choice]:
        """The last choices for this peer, the newest last."""
        return tuple(self._made.get(peer, ()))

    def current(self, peer: PeerName) -> Choice | None:
        made = self._made.get(peer)
        return made[-1] if made else None

    def choose(self, peer: PeerName, choice: Choice) -> bool:
        """Note it if it is another than the last; whether it was."""
        made = self._made.setdefault(peer, deque(maxlen=HISTORY))
        if made and not choice.differs(made[-1]):
            return False
        made.append(choice)
        return True

    def keep(self, peers: Collection[PeerName]) -> None:
        """Forget everybody else."""
        for peer in self._made.keys() - set(peers):
            del self._made[peer]
