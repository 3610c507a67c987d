"""What a relay has the kernel drop, before it is queued, of who sends more than its share.

A full socket drops of everybody's alike, and a relay that only drops what it has read reads as much
as it can and loses the rest so. While a queue stands, more and more of those in excess
(``fairness``) is dropped in front of it, whole records; when none does, less and less.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.link.fairness import Pair

STEP = 0.8
"""Of what is in excess still, so much is shed from one look to the next."""

EASE = 1.1
"""What passes where nothing stands grows by this from one look to the next."""

LEAST = 0.05
MOST_PAIRS = 16
"""That are shed; those with the largest shares, where there are more."""


class Shedding:
    """``shares``: of each pair's records, how much the kernel should drop."""

    def __init__(self) -> None:
        self.shares: dict[Pair, float] = {}

    def look(self, excess: Mapping[Pair, float], *, standing: bool) -> bool:
        """Call it at every look at the loss; whether the kernel has to be told."""
        before = self.shares
        if standing:
            shares = dict(before)
            for pair, more in excess.items():
                shares[pair] = 1 - (1 - shares.get(pair, 0.0)) * (1 - STEP * more)
        else:
            shares = {pair: 1 - (1 - share) * EASE for pair, share in before.items()}
        most = sorted(shares.items(), key=lambda entry: -entry[1])[:MOST_PAIRS]
        self.shares = {pair: share for pair, share in most if share >= LEAST}
        return bool(before or self.shares)
