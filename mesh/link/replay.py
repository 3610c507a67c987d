"""Which sequence numbers were accepted: a sliding window (docs/protocol.md 10.4).

Source: RFC 6479's idea, a ring that is never shifted, with an octet for a number: the commonest
step, to the next number, is one store whatever the window's size.
"""

from __future__ import annotations

WINDOW = 8192
"""Records that may overtake each other. At 64 KiB a record that is half a gigabyte in flight."""

_MASK = WINDOW - 1


class ReplayWindow:
    """Invariant: ``accept`` returns True at most once for each number."""

    __slots__ = ("_seen", "_top")

    def __init__(self) -> None:
        self._top = 0
        self._seen = bytearray()
        """By number modulo WINDOW, for the WINDOW numbers up to the top; made at first use."""

    def saw(self, number: int) -> bool:
        """Whether ``accept`` would refuse this number; remembers nothing."""
        behind = self._top - number
        return behind >= WINDOW or (
            behind >= 0 and bool(self._seen) and bool(self._seen[number & _MASK])
        )

    def accept(self, number: int) -> bool:
        """Whether this number is new and not too old; remembers it. Call it only for what is
        authentic: a forger could move the window."""
        seen = self._seen
        ahead = number - self._top
        if ahead != 1 or not seen:
            if ahead <= 0 and self.saw(number):
                return False
            if not seen:
                self._seen = seen = bytearray(WINDOW)
            if ahead > 1:
                self._forget(number, ahead)
        if ahead > 0:
            self._top = number
        seen[number & _MASK] = 1
        return True

    def _forget(self, number: int, ahead: int) -> None:
        """Numbers between the top and this one were not seen: their places hold older ones."""
        seen = self._seen
        if ahead >= WINDOW:
            seen[:] = bytes(WINDOW)
            return
        first, last = (self._top + 1) & _MASK, number & _MASK
        if first <= last:
            seen[first:last] = bytes(last - first)
        else:
            seen[first:] = bytes(WINDOW - first)
            seen[:last] = bytes(last)

    # ---- what did not come

    def note(self, number: int) -> None:
        """Remember a number nobody vouches for. Who counts from 1 again begins a new window."""
        if number <= self._top - WINDOW:
            self._top, self._seen = 0, bytearray()
        self.accept(number)

    @property
    def top(self) -> int:
        """The highest number accepted; 0 before there is one."""
        return self._top

    @property
    def first(self) -> int:
        """The lowest number accepted that is still remembered; 0 before there is one."""
        oldest = (self._top + 1) & _MASK
        at = (self._seen[oldest:] + self._seen[:oldest]).find(1)
        return 0 if at < 0 else self._top - WINDOW + 1 + at

    def missing(self, after: int, upto: int) -> int:
        """Numbers above ``after``, up to ``upto``, that were not accepted. Those a window behind
        are not remembered and not counted."""
        after = max(after, self._top - WINDOW)
        upto = min(upto, self._top)
        if upto <= after:
            return 0
        seen, first, end = self._seen, (after + 1) & _MASK, (upto & _MASK) + 1
        came = (
            seen.count(1, first, end)
            if first < end
            else seen.count(1, first) + seen.count(1, 0, end)
        )
        return upto - after - came
