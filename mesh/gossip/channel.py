"""What a gossip channel is: a name, and keyed items of which the newer stamp wins.

The engine (``mesh.gossip.engine``) spreads items and knows nothing of what they mean; the
channel behind it decides what merges. The order of stamps is all that peers need to agree on
to find differences, so a surrogate can keep and relay a channel it has never heard of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.clock import Instant
from mesh.names import PeerName
from mesh.wire.gossip import STAMP_SIZE

STAMP_BITS = 8 * STAMP_SIZE
"""A stamp is an unsigned integer of this many bits, most significant part first: (version,
tie-breaker). Equal stamps mean equal payloads; a channel in which two authors may write the
same version puts part of the payload's hash into the tie-breaker."""


@dataclass(frozen=True, slots=True)
class Item:
    """One keyed piece of a channel's state."""

    key: bytes
    stamp: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that did not merge, with the stable reason; it is counted and never relayed."""

    key: bytes
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a batch: ``news`` are keys whose item changed (they are relayed)."""

    news: tuple[bytes, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class Channel(Protocol):
    """The state behind a channel. Merge is commutative, associative and idempotent."""

    @property
    def name(self) -> str: ...

    def digest(self) -> Mapping[bytes, int]:
        """Every key held, with its stamp."""
        ...

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        """The items held under these keys; unknown keys are left out."""
        ...

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        """Fold items in that the neighbour ``source`` sent. Never raises for what is in them."""
        ...
