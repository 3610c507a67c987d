"""Broadcast trees through a change: a branch that is no longer wanted is kept for a while.

Who drives it: ``mesh.router.links``. Peers learn of a change one after the other. If each left its
old tree at once, a branch that one peer has let go and another has not taken up yet would hear
nothing. While every peer still serves its old children, the old tree is whole until the new one is
(docs/protocol.md 8.4); what comes twice is dropped by its number (10.7).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mesh.clock import Instant
from mesh.names import ShortID

HOLD = 1.0
"""Seconds that a branch outlives its tree: well above the time until all peers' routes are new."""

Children = tuple[ShortID, ...]


class Branches:
    """Invariant: a child is served while it is wanted and ``HOLD`` seconds longer."""

    def __init__(self) -> None:
        self._wanted: dict[ShortID, Children] = {}
        self._held: dict[tuple[ShortID, ShortID], Instant] = {}
        """Until when a child that an origin's tree no longer has is served."""

    @property
    def due(self) -> Instant | None:
        """When the next branch is to be let go."""
        return min(self._held.values(), default=None)

    def clear(self) -> None:
        """Forget what was: nobody was served."""
        self._wanted, self._held = {}, {}

    def serve(
        self, wanted: Mapping[ShortID, Children], known: Collection[ShortID], now: Instant
    ) -> dict[ShortID, Children]:
        """The children to serve in each origin's tree; none that is not ``known``."""
        for origin, children in self._wanted.items():
            for child in set(children) - set(wanted.get(origin, ())):
                self._held[origin, child] = Instant(now + HOLD)
        self._wanted = dict(wanted)
        self._held = {
            (origin, child): until
            for (origin, child), until in self._held.items()
            if until > now
            and origin in known
            and child in known
            and child not in wanted.get(origin, ())
        }
        served = dict(wanted)
        for origin, child in sorted(self._held):
            served[origin] = (*served.get(origin, ()), child)
        return served
