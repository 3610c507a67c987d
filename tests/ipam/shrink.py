"""A story that fails, with everything taken out that it fails without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def shrunk(
    steps: Sequence[_T], fails: Callable[[Sequence[_T]], bool], tries: int = 150
) -> list[_T]:
    """Take out ever smaller runs of steps for as long as it still fails (delta debugging)."""
    left = list(steps)
    size = max(1, len(left) // 2)
    while tries > 0:
        at, smaller = 0, False
        while at < len(left) and tries > 0:
            without = left[:at] + left[at + size :]
            tries -= 1
            if fails(without):
                left, smaller = without, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return left
