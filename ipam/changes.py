"""Changes of the ring as effects: durable first, then told."""

from __future__ import annotations

from collections.abc import Iterable

from ipam.effects import (
    AllocatorEffect,
    Change,
    DropSlice,
    Persist,
    Publish,
    SetCluster,
    SetSlice,
)
from ipam.ring import CHANNEL, Ring
from ipam.slices import Slice


def persisted(ring: Ring, changed: Iterable[Slice], cluster: bool = False) -> Persist:
    """Slices as the store is to have them, with the ring's cluster where that is new."""
    changes: list[Change] = [SetSlice(p.start, ring.encoded(p)) for p in changed]
    changes += [DropSlice(start) for start in ring.take_dropped()]
    if cluster and ring.id is not None:
        changes.insert(0, SetCluster(ring.id.cluster))
    return Persist(tuple(changes))


def announced(ring: Ring, changed: list[Slice], cluster: bool = False) -> list[AllocatorEffect]:
    """Our own changes; no digest shows them before they are durable (docs/ipam.md R20)."""
    if not changed:
        return []
    ring.hide(changed)
    return [
        persisted(ring, changed, cluster),
        Publish(CHANNEL, tuple(piece.key for piece in changed)),
    ]
