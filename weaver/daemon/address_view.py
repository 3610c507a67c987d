"""What the API shows of addresses, of every range: plain JSON values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from mesh.names import PeerName
from weaver.daemon.comparison import has_settled
from weaver.daemon.leaks import Suspect
from weaver.daemon.ledger import Ledger
from weaver.daemon.ranges import Kept, Ranges

Json = Any

SETTLE = 1.0
"""Seconds that gossip of a moment ago takes to arrive."""

PAST = 1000
"""Changes of addresses that are shown at once."""


class AddressView:
    """``nickname`` and ``reachable`` are the mesh's, ``suspects`` those of the last look at leaks.

    Where there are several ranges, the first is what the fields of old show; ``others`` has the
    same fields of each of the rest."""

    def __init__(
        self,
        ranges: Ranges,
        *,
        nickname: Callable[[PeerName], str],
        reachable: Callable[[], Collection[PeerName]],
        suspects: Callable[[], list[Suspect]],
    ) -> None:
        self._ranges, self._nickname, self._reachable = ranges, nickname, reachable
        self._suspects = suspects

    def _ledger(self, kept: Kept) -> Ledger:
        return Ledger(
            kept.allocator,
            nickname=self._nickname,
            reachable=self._reachable,
            history=kept.store.history,
            leaks=self._suspects if kept is self._ranges.first else tuple,
        )

    def ipam(self) -> Json:
        first, *others = [self._one(kept) for kept in self._ranges]
        suspected = [s.row for s in self._suspects()]
        return {**first, "suspected": suspected, "others": others}

    def _one(self, kept: Kept) -> Json:
        allocator = kept.allocator
        ring, space, text = allocator.ring, allocator.space, kept.range.text
        shares = ring.shares()
        return {
            "range": str(kept.range),
            "is_default": any(c.pool.range == kept.range for c in self._ranges.pools.choose()),
            "cluster": None if ring.id is None else ring.id.cluster.hex(),
            "seeded": ring.is_seeded,
            "quorum": allocator.election.quorum,
            "owned": space.size,
            "used": len(allocator.allocations),
            "free": space.free_count() if ring.is_seeded else 0,
            "rest": allocator.rest,
            "resting": space.resting_count,
            "excluded": space.excluded.texts(),
            "excluded_used": [text(a) for a in space.excluded_used()],
            "slices": len(ring.slices),
            "gaps": [[text(a), text(b)] for a, b in ring.gaps()],
            "pending": allocator.pending_count,
            "fault": kept.ipam.fault,
            "withheld": allocator.withheld,
            "astray": [text(a) for a in sorted(allocator.estate.astray)],
            "shares": [
                {
                    "peer": str(peer),
                    "nickname": self._nickname(peer),
                    "addresses": share,
                    "percent": round(100 * share / kept.range.size, 3),
                    "reachable": peer == allocator.us or peer in self._reachable(),
                }
                for peer, share in sorted(shares.items())
            ],
            "conflicts": [
                {
                    "start": text(c.start),
                    "end": text(c.end - 1),
                    "reason": c.reason,
                    "held": f"{c.held.owner} v{c.held.version}",
                    "said": f"{c.said.owner} v{c.said.version}",
                    "source": str(c.source),
                }
                for _, c in sorted(ring.conflicts.items())
            ],
            "lost": [
                {
                    "container": lost.key.container,
                    "interface": lost.key.interface,
                    "address": text(lost.address),
                }
                for lost in kept.ipam.lost
            ],
        }

    def in_use(self) -> Json:
        return [
            {
                "address": kept.range.text(address),
                "container": key.container,
                "interface": key.interface,
                "range": str(kept.range),
            }
            for kept in self._ranges
            for key, address in sorted(kept.allocator.allocations.items(), key=lambda row: row[1])
        ]

    def ring(self) -> Json:
        return [
            {
                "start": kept.range.text(s.start),
                "end": kept.range.text(s.end - 1),
                "size": s.size,
                "owner": str(s.owner),
                "nickname": self._nickname(s.owner),
                "version": s.version,
                "takeover": s.takeover,
                "range": str(kept.range),
            }
            for kept in self._ranges
            for _, s in sorted(kept.allocator.ring.slices.items())
        ]

    def who(self, address: str) -> Json:
        """Raises OperatorError."""
        kept, number = self._ranges.of(address)
        return self._ledger(kept).who(number)

    async def check(self) -> Json:
        """Of every range at once; the first one's figures are those of old, the findings all."""
        first, *others = await asyncio.gather(*(self._checked(kept) for kept in self._ranges))
        findings = [found for one in (first, *others) for found in one["findings"]]
        return {**first, "findings": findings, "others": others}

    async def _checked(self, kept: Kept) -> Json:
        """Asked once more where what is on its way may explain what was seen."""
        survey = await kept.ipam.survey()
        if not has_settled(kept.allocator.ring, survey):
            await asyncio.sleep(SETTLE)
            survey = await kept.ipam.survey()
        return self._ledger(kept).check(survey)

    def history(self) -> Json:
        """Newest first."""
        rows = [row for kept in self._ranges for row in self._ledger(kept).past(PAST)]
        return sorted(rows, key=lambda row: -row["at"])[:PAST]
