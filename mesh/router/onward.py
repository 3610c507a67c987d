"""What a relay goes on passing on for others although its own frames go by the sleeve now.

Who drives it: ``mesh.router.fastdp``. Peers learn of a change one after the other, and who sends
across several hops is not the first: until it knows, its frames still come by the kernel, and the
way they came may still carry them (docs/protocol.md 14.2).
"""

from __future__ import annotations

from mesh.clock import Instant
from mesh.link.datapath import SLEEVE, Tables
from mesh.names import ShortID

HOLD = 1.0
"""Seconds that others are served the old way: well above the time until all routes are new."""


class Onward:
    """Invariant: a destination is served for others only while our own frames go by the sleeve."""

    def __init__(self) -> None:
        self._held: dict[ShortID, tuple[ShortID, Instant]] = {}
        """Destination -> the neighbour it was reached by, and until when it serves."""

    @property
    def due(self) -> Instant | None:
        """When the next one is to be let go."""
        return min((until for _, until in self._held.values()), default=None)

    def serve(self, told: Tables, wanted: Tables, now: Instant) -> dict[ShortID, ShortID]:
        """The ways for others' frames beside these tables."""
        for to, via in told.routes.items():
            if via != SLEEVE and wanted.routes.get(to) == SLEEVE:
                self._held[to] = (via, Instant(now + HOLD))
        self._held = {
            to: (via, until)
            for to, (via, until) in self._held.items()
            if until > now and wanted.routes.get(to) == SLEEVE and via in wanted.neighbours
        }
        return {to: via for to, (via, _) in self._held.items()}
