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
"""Bounds of what a neighbour can make us hold on behalf of channels nobody here asked for."""


@dataclass
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

    def digest(self) -> Mapping[bytes, int]:
        return {key: item.stamp for key, item in self._items.items()}

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        return [self._items[key] for key in keys if key in self._items]

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news: list[bytes] = []
        rejected: list[Rejected] = []
        left = self._allowance
        for item in items:
            held = self._items.get(item.key)
            if held is not None and held.stamp >= item.stamp:
                continue
            growth = len(item.payload) - (0 if held is None else len(held.payload))
            if (held is None and left.items < 1) or left.octets < growth:
                rejected.append(Rejected(item.key, "surrogate-full"))
                continue
            left.items -= held is None
            left.octets -= growth
            self._items[item.key] = item
            news.append(item.key)
        return Merged(tuple(news), tuple(rejected))
