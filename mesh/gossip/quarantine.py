"""What did not merge: counted for ever, remembered a while, never relayed (docs/protocol.md 6.5).

Invariants: at most ``CAPACITY`` entries, whatever peers send; one peer that repeats itself fills
one entry, not all; a refusal is held against its sender only, so that a forgery cannot keep the
genuine item of an honest peer away.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from mesh.gossip.channel import Rejected
from mesh.names import PeerName

_K = TypeVar("_K")
_V = TypeVar("_V")

CAPACITY = 64
"""Refused items that status remembers: a screenful."""

MAX_REFUSED = 1024
"""(sender, item) pairs that are not asked for again."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An item that ``source`` sent and that was refused, ``count`` times by now."""

    channel: str
    key: bytes
    reason: str
    source: PeerName
    detail: str = ""
    count: int = 1


class Quarantine:
    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, bytes, str, PeerName], Quarantined] = OrderedDict()
        self._counts: dict[str, Counter[str]] = {}
        self._refused: OrderedDict[tuple[PeerName, str, bytes, int], None] = OrderedDict()

    def refuse(
        self, channel: str, rejected: Iterable[tuple[Rejected, int]], source: PeerName
    ) -> list[Quarantined]:
        """Take these items of one message in, each with its stamp.

        Returns what there is to tell: one entry a reason, however many items share it.
        """
        told: dict[str, Quarantined] = {}
        counts = self._counts.setdefault(channel, Counter())
        for item, stamp in rejected:
            counts[item.reason] += 1
            self._remember(channel, item, source)
            self._bounded(self._refused, (source, channel, item.key, stamp), None, MAX_REFUSED)
            before = told.get(item.reason)
            if before is None:
                told[item.reason] = Quarantined(channel, item.key, item.reason, source, item.detail)
            else:
                told[item.reason] = replace(before, count=before.count + 1)
        return list(told.values())

    def is_refused(self, source: PeerName, channel: str, key: bytes, stamp: int) -> bool:
        """Whether this neighbour already sent us this version of the item in vain."""
        return (source, channel, key, stamp) in self._refused

    def refused(self, source: PeerName, channel: str) -> dict[bytes, int]:
        """What this neighbour sent us in vain, by key: the greatest stamp of each."""
        stamps: dict[bytes, int] = {}
        for peer, of, key, stamp in self._refused:
            if peer == source and of == channel:
                stamps[key] = max(stamp, stamps.get(key, 0))
        return stamps

    def forgive(self, source: PeerName) -> None:
        """The neighbour is gone; when it comes back, it may try again."""
        for entry in [e for e in self._refused if e[0] == source]:
            del self._refused[entry]

    def counts(self, channel: str) -> dict[str, int]:
        """Refusals by reason since the start."""
        return dict(self._counts.get(channel, {}))

    def entries(self, channel: str) -> tuple[Quarantined, ...]:
        """What is remembered of this channel, the latest last."""
        return tuple(e for e in self._entries.values() if e.channel == channel)

    def _remember(self, channel: str, item: Rejected, source: PeerName) -> None:
        place = (channel, item.key, item.reason, source)
        before = self._entries.get(place)
        count = 1 if before is None else before.count + 1
        entry = Quarantined(channel, item.key, item.reason, source, item.detail, count)
        self._bounded(self._entries, place, entry, CAPACITY)

    @staticmethod
    def _bounded(memory: OrderedDict[_K, _V], key: _K, value: _V, limit: int) -> None:
        memory[key] = value
        memory.move_to_end(key)
        if len(memory) > limit:
            memory.popitem(last=False)
