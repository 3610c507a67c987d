"""Work that nobody waits for: done after the answers, and once for many who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Soon:
    """``ask`` has ``action`` done in the loop's next turn, at most once in ``interval`` seconds;
    what is asked meanwhile is done at its end. Only within a running loop."""

    def __init__(self, action: Callable[[], None], interval: float) -> None:
        self._action, self._interval = action, interval
        self._handle: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._closed = False

    def ask(self) -> None:
        if self._handle is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_at(max(loop.time(), self._not_before), self._do)

    def _do(self) -> None:
        self._handle = None
        self._action()
        self._not_before = asyncio.get_running_loop().time() + self._interval

    def close(self) -> None:
        """Nothing is done any more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
