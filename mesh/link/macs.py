"""Behind which peer each MAC address is: learned, moved, aged, bounded."""

from __future__ import annotations

from mesh.clock import Instant
from mesh.names import ShortID

MAX_MACS = 65_536
"""Addresses held: a /16 of pods. A flood of invented ones pushes out the oldest, not the daemon."""

AGE = 600.0
"""Seconds after which an address that was not seen is forgotten. An unknown address costs one
sealed copy for every peer, so remembering long is cheap; a pod that moves is learned at once."""

LOCAL = ShortID(0)
"""The place of addresses on our own bridge."""


class MacTable:
    """MAC (6 octets) -> short ID of the peer it is behind, ``LOCAL`` for our own pods."""

    def __init__(self) -> None:
        self.places: dict[bytes, ShortID] = {}
        self._seen: dict[bytes, Instant] = {}
        self.touched: set[bytes] = set()
        """Known addresses seen since the last ``age``: the fast path only adds to it."""
        self.version = 0
        """Changes whenever ``places`` does."""

    def learn(self, mac: bytes, place: ShortID, now: Instant) -> None:
        """A frame came from this address: group addresses are nobody's."""
        if mac[0] & 1:
            return
        if mac not in self.places and len(self.places) >= MAX_MACS:
            oldest = next(iter(self._seen))
            del self.places[oldest], self._seen[oldest]
        if self.places.get(mac) != place:
            self.places[mac] = place
            self.version += 1
        # Re-inserted at the end, so that the first is always the one not seen for longest.
        self._seen.pop(mac, None)
        self._seen[mac] = now

    def forget_place(self, place: ShortID) -> None:
        """The peer is gone, or another has its short ID."""
        for mac in [m for m, p in self.places.items() if p == place]:
            del self.places[mac], self._seen[mac]
            self.version += 1

    def age(self, now: Instant) -> None:
        """Call it every second or so."""
        for mac in self.touched & self.places.keys():
            self._seen.pop(mac, None)
            self._seen[mac] = now
        self.touched.clear()
        for mac, seen in list(self._seen.items()):
            if now - seen < AGE:
                return
            del self.places[mac], self._seen[mac]
            self.version += 1
