"""So many a second and no more: for what one packet of a pod may set off."""

from __future__ import annotations


class Allowance:
    """``refill`` is called once a second; at most ``rate`` are granted between two calls."""

    __slots__ = ("_left", "_rate")

    def __init__(self, rate: int) -> None:
        self._rate = self._left = rate

    def take(self) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def refill(self) -> None:
        self._left = self._rate
