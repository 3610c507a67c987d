"""Which sequence numbers were accepted: a sliding window (docs/protocol.md 10.4).

Source: RFC 6479's idea, on one integer: Python's are as wide as the window.
"""

from __future__ import annotations

WINDOW = 8192
"""Records that may overtake each other. At 64 KiB a record that is half a gigabyte in flight."""

_MASK = (1 << WINDOW) - 1


class ReplayWindow:
    """Invariant: ``accept`` returns True at most once for each number."""

    __slots__ = ("_bits", "_top")

    def __init__(self) -> None:
        self._top = 0
        self._bits = 0

    def saw(self, number: int) -> bool:
        """Whether ``accept`` would refuse this number; remembers nothing."""
        behind = self._top - number
        return behind >= WINDOW or (behind >= 0 and bool(self._bits >> behind & 1))

    def accept(self, number: int) -> bool:
        """Whether this number is new and not too old; remembers it. Call it only for what is
        authentic: a forger could move the window."""
        if self.saw(number):
            return False
        ahead = number - self._top
        if ahead <= 0:
            self._bits |= 1 << -ahead
            return True
        self._top = number
        self._bits = 1 if ahead >= WINDOW else ((self._bits << ahead) | 1) & _MASK
        return True
