"""Many deadlines behind one: the router's machines each ask for a wake-up, its driver has one.

Keys are tuples whose first element names the kind of machine; setting a key again replaces
its deadline.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable

from mesh.clock import Instant

Key = tuple[Hashable, ...]


class Deadlines:
    def __init__(self) -> None:
        self._when: dict[Key, Instant] = {}
        self._heap: list[tuple[Instant, int, Key]] = []
        self._order = 0

    def set(self, key: Key, when: Instant | None) -> None:
        """Wake ``key`` at ``when``, instead of any earlier wish; None takes the wish back."""
        if when is None:
            self._when.pop(key, None)
            return
        if self._when.get(key) == when:
            return
        self._when[key] = when
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, key))
        if len(self._heap) > 64 + 4 * len(self._when):
            self._compact()

    def get(self, key: Key) -> Instant | None:
        """When this key wakes."""
        return self._when.get(key)

    def next(self) -> Instant | None:
        """The soonest deadline."""
        while self._heap:
            when, _, key = self._heap[0]
            if self._when.get(key) == when:
                return when
            heapq.heappop(self._heap)
        return None

    def due(self, now: Instant) -> list[Key]:
        """Take every key whose time has come, soonest first."""
        keys: list[Key] = []
        while (when := self.next()) is not None and when <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._when[key]
            keys.append(key)
        return keys

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if self._when.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
