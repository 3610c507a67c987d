"""How long news wait for company before anything is made of them.

Who drives it: ``mesh.router.router``. A mesh that starts changes dozens of times within a second;
one record and one set of routes for many changes is what keeps that cheap.
"""

from __future__ import annotations

from mesh.clock import Instant

SETTLE = 0.05
"""Seconds that changes of links and topology wait before records and routes are made anew."""

ROUTES_INTERVAL = 0.25
ROUTES_PER_PEER = 0.01
"""Seconds between two makings of routes, the first of a burst apart, at most and for each peer:
what a mesh that is starting may cost each of its peers."""

COST_INTERVAL = 2.0
"""Seconds that measured costs wait to be looked at: published ones change once in ten at most."""

COLLECT_INTERVAL = 5.0
"""Seconds between looks for peers that have long been unreachable."""


class Pace:
    def __init__(self) -> None:
        self._routes_at: Instant | None = None

    def routes_made(self, now: Instant) -> None:
        self._routes_at = now

    def routes(self, peers: int, now: Instant) -> float:
        """Seconds until routes may be made of what is new, in a mesh of so many."""
        if self._routes_at is None:
            return SETTLE
        interval = min(ROUTES_INTERVAL, ROUTES_PER_PEER * peers)
        return max(SETTLE, self._routes_at + interval - now)
