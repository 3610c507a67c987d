"""A channel we do not understand, kept and relayed for those who do (docs/protocol.md 6.6).

Invariant: all surrogates of a peer together hold no more than their shared ``Allowance``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mesh.clock import Instant
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import PeerName

MAX_ITEMS = 10_000
MAX_OCTETS = 16 * 1024 * 1024
MAX_SURROGATES = 32
"""Bounds of what neighbours can make us hold on behalf of channels nobody here asked for."""


@dataclass(slots=True)
class Allowance:
    """What is left for surrogates, shared by all of them."""

    items: int = MAX_ITEMS
    octets: int = MAX_OCTETS


class Surrogate:
    """Newest stamp wins; nothing is known of what is inside."""

    def __init__(self, name: str, allowance: Allowance) -> None:
        self.name = name
        self._allowance = allowance
        self._items: dict[bytes, Item] = {}
        self._stamps: dict[bytes, int] = {}

    def digest(self) -> Mapping[bytes, int]:
        return self._stamps

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        return [self._items[key] for key in keys if key in self._items]

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        """Keep what is newer, as far as the allowance goes."""
        news: dict[bytes, None] = {}
        rejected: list[Rejected] = []
        for item in items:
            if self._stamps.get(item.key, -1) >= item.stamp:
                continue
            if self._keep(item):
                news[item.key] = None
            else:
                rejected.append(Rejected(item.key, "surrogate-full"))
        return Merged(tuple(news), tuple(rejected))

    def _keep(self, item: Item) -> bool:
        held = self._items.get(item.key)
        growth = _size(item) - (0 if held is None else _size(held))
        left = self._allowance
        if (held is None and left.items < 1) or left.octets < growth:
            return False
        left.items -= held is None
        left.octets -= growth
        self._items[item.key] = item
        self._stamps[item.key] = item.stamp
        return True


def _size(item: Item) -> int:
    return len(item.key) + len(item.payload)
