"""Short IDs: 12 bits for the data plane, drawn by each peer, collisions resolved by name.

Rule: of two peers with one short ID, the lower name keeps it; the other draws again from what
nobody holds (docs/protocol.md 7.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mesh.names import PeerName, ShortID

if TYPE_CHECKING:
    from random import Random

LAST = 4095

NONE_FREE = "no-short-id-free"
"""Why a peer has no short ID: its frames cannot be addressed until somebody leaves."""


def choose(
    us: PeerName,
    current: ShortID | None,
    others: Mapping[PeerName, ShortID | None],
    rng: Random,
) -> ShortID | None:
    """The short ID we should have: the current one where we may keep it; None when all are taken.

    A holder with a higher name does not stop us from keeping ours, but we draw only what nobody
    holds.
    """
    if current is not None and not any(
        short_id == current and name < us for name, short_id in others.items()
    ):
        return current
    taken = set(others.values())
    for _ in range(10):
        drawn = ShortID(rng.randint(1, LAST))
        if drawn not in taken:
            return drawn
    free = [n for n in range(1, LAST + 1) if n not in taken]
    return ShortID(rng.choice(free)) if free else None
