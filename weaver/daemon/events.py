"""What happened lately, for ``/v1/events``: a bounded past, bounded queues for those who listen."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime

PAST = 256
"""Events kept for whoever begins to listen."""

QUEUE = 1024
"""Events waiting for a listener; one that reads no faster loses the newest and is told so."""

MAX_LISTENERS = 64

Event = dict[str, object]


class EventLog:
    def __init__(self) -> None:
        self.past: deque[Event] = deque(maxlen=PAST)
        self._listeners: set[asyncio.Queue[Event]] = set()

    def add(self, what: str, fields: Event) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        event: Event = {"time": when, "event": what, **fields}
        self.past.append(event)
        for queue in self._listeners:
            if queue.full():
                continue
            room_for_one = queue.qsize() == QUEUE - 1
            queue.put_nowait({"event": "events lost", "time": when} if room_for_one else event)

    def listen(self) -> asyncio.Queue[Event] | None:
        """A queue of what happens from now on; None when too many listen."""
        if len(self._listeners) >= MAX_LISTENERS:
            return None
        queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)
        self._listeners.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[Event]) -> None:
        self._listeners.discard(queue)
