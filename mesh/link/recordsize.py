"""How large a record may be: large on a clean path, small on one that loses datagrams.

A lost datagram loses its record, so with records of n datagrams a path that loses p of them loses
about n·p of the octets, and every one of them is sent again. The receiver reports what it lost;
the sender halves its records while that is too much, quarters them when it is very much, and
doubles them when nothing is reported.
"""

from __future__ import annotations

from mesh.clock import Instant
from mesh.wire.sleeve import MAX_RECORD

MIN_RECORD = 1_400
"""Octets at the least: about one datagram, of which there is nothing left to save."""

SHRINK_AT = 0.04
"""Share of records lost that makes them smaller. Below it the repeated octets cost less than the
additional calls of smaller records do."""

VERY_MUCH = 0.3
"""Share lost above which half the size would still lose too much."""

QUIET = 5.0
"""Seconds without such a report after which records double: several reports, were there loss."""


class RecordSize:
    """Invariant: MIN_RECORD <= limit <= MAX_RECORD."""

    __slots__ = ("_changed_at", "limit")

    def __init__(self) -> None:
        self.limit = MAX_RECORD
        self._changed_at = Instant(0.0)

    def reported(self, whole: int, lost: int, now: Instant) -> None:
        """What became of our records at their receiver since its last report."""
        if lost <= SHRINK_AT * (whole + lost):
            return
        by = 4 if lost > VERY_MUCH * (whole + lost) else 2
        self.limit = max(MIN_RECORD, self.limit // by)
        self._changed_at = now

    def grow(self, now: Instant) -> None:
        """Call it every second or so."""
        if self.limit < MAX_RECORD and now - self._changed_at >= QUIET:
            self.limit = min(MAX_RECORD, self.limit * 2)
            self._changed_at = now
