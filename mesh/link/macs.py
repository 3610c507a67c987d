"""Behind which peer each MAC address is: learned, moved, aged, bounded."""

from __future__ import annotations

from mesh.clock import Instant
from mesh.names import ShortID

MAX_MACS = 65_536
"""Addresses held: a /16 of pods. A flood of invented ones pushes out the oldest, not the daemon."""

AGE = 600.0
"""Seconds after which an address that was not seen is forgotten. An unknown address costs one
sealed copy for every peer, so remembering long is cheap; a pod that moves is learned at once."""

TELL_AGAIN = AGE / 4
"""Seconds until other workers are told again of what is still seen here."""

LOCAL = ShortID(0)
"""The place of addresses on our own bridge."""


class MacTable:
    """MAC (6 octets) -> short ID of the peer it is behind, ``LOCAL`` for our own pods."""

    def __init__(self) -> None:
        self.places: dict[bytes, ShortID] = {}
        self._seen: dict[bytes, Instant] = {}
        self._tell_again: set[bytes] = set()
        self._told_at = Instant(0.0)
        self.touched: set[bytes] = set()
        """Known addresses seen since the last ``age``: the fast path only adds to it."""
        self.version = 0
        """Changes whenever ``places`` does."""
        self.news: list[tuple[bytes, ShortID]] = []
        """What was learned here and other workers of this host do not know; taken by who tells."""

    def learn(self, mac: bytes, place: ShortID, now: Instant, *, told: bool = False) -> None:
        """A frame came from this address, here or (``told``) at another worker of this host: group
        addresses are nobody's."""
        if mac[0] & 1:
            return
        if not told:
            self.news.append((mac, place))
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
            self._tell_again.add(mac)
        self.touched.clear()
        if now - self._told_at >= TELL_AGAIN:
            self._told_at = now
            self.news += [(m, self.places[m]) for m in self._tell_again & self.places.keys()]
            self._tell_again.clear()
        for mac, seen in list(self._seen.items()):
            if now - seen < AGE:
                return
            del self.places[mac], self._seen[mac]
            self.version += 1
