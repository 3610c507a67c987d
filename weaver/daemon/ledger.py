"""What can be said of any address, and of the whole: the ledger. Plain JSON values.

Everything is derived from what the allocator and its store hold; nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ipam.address import Address
from ipam.allocator import Allocator
from ipam.drivers.store import Past
from ipam.effects import Surveyed
from mesh.names import PeerName
from weaver.daemon.comparison import FRAGMENTS, compare
from weaver.daemon.leaks import Suspect

Json = Any


class Ledger:
    """``nickname`` and ``reachable`` are the mesh's; ``history`` is the store's."""

    def __init__(
        self,
        allocator: Allocator,
        *,
        nickname: Callable[[PeerName], str],
        reachable: Callable[[], Collection[PeerName]],
        history: Callable[[Address | None, int], list[Past]],
        leaks: Callable[[], Collection[Suspect]] = tuple,
    ) -> None:
        self._allocator, self._history = allocator, history
        self._nickname, self._reachable, self._leaks = nickname, reachable, leaks

    def who(self, address: Address) -> Json:
        """Whose it is, who has it, since when, and who had it before, as far as this host knows."""
        allocator = self._allocator
        piece, key = allocator.ring.at(address), allocator.holder_of(address)
        past = self._history(address, 100)
        since = next((p.at for p in past if p.what == "allocated"), None) if key else None
        evidence = None
        if piece is not None:
            evidence = {
                "start": allocator.range.text(piece.start),
                "end": allocator.range.text(piece.end - 1),
                "version": piece.version,
                "issuer": str(piece.issuer),
                "takeover": piece.takeover,
            }
        return {
            "address": allocator.range.text(address),
            "state": self._state(address),
            "owner": None if piece is None else str(piece.owner),
            "nickname": None if piece is None else self._nickname(piece.owner),
            "reachable": piece is not None and self._is_there(piece.owner),
            "container": None if key is None else key.container,
            "interface": None if key is None else key.interface,
            "since": since,
            "slice": evidence,
            "history": [_past(allocator, row) for row in past],
        }

    def _state(self, address: Address) -> str:
        allocator = self._allocator
        space, piece = allocator.space, allocator.ring.at(address)
        if not allocator.range.is_usable(address):
            return "reserved"
        if allocator.holder_of(address) is not None:
            return "used" if space.owns(address) else "astray"
        if allocator.ring.conflicts.disputed(address):
            return "disputed"
        if piece is None:
            return "nobody's"
        if piece.owner != allocator.us:
            return "another's"
        if space.excluded.end_of(address) is not None:
            return "excluded"
        return "resting" if space.rests(address) else "free"

    def past(self, limit: int) -> Json:
        return [_past(self._allocator, row) for row in self._history(None, limit)]

    def check(self, survey: Surveyed | None = None) -> Json:
        """What is wrong, worst first, as we see it and as our peers do; ``findings`` is empty when
        nothing is."""
        allocator = self._allocator
        ring, text = allocator.ring, allocator.range.text
        found: list[Json] = []

        def find(what: str, where: str, why: str) -> None:
            found.append({"what": what, "where": where, "why": why})

        for conflict in ring.conflicts.values():
            where = f"{text(conflict.start)} to {text(conflict.end - 1)}"
            sides = f"{conflict.held.owner} v{conflict.held.version} and"
            sides += f" {conflict.said.owner} v{conflict.said.version}, from {conflict.source}"
            find(conflict.reason, where, sides)
        for start, end in ring.gaps():
            find("gap", f"{text(start)} to {text(end - 1)}", "nobody is known to own it")
        for address in sorted(allocator.estate.astray):
            key = allocator.holder_of(address)
            why = "in use here, in another's space" + (f": {key.container}" if key else "")
            find("astray", text(address), why)
        for address in allocator.space.excluded_used():
            key = allocator.holder_of(address)
            why = "excluded, and in use here" + (f": {key.container}" if key else "")
            find("excluded-in-use", text(address), why)
        for suspect in self._leaks():
            why = f"{suspect.key[0]} {suspect.key[1]}: {suspect.why}"
            find("leak", " ".join(suspect.addresses), why)
        for peer, share in sorted(ring.shares().items()):
            if not self._is_there(peer):
                find("unreachable", self._nickname(peer), f"{share} addresses out of reach")
        counts: dict[PeerName, int] = {}
        for piece in ring.slices.values():
            counts[piece.owner] = counts.get(piece.owner, 0) + 1
        for peer, count in counts.items():
            if count > FRAGMENTS:
                find("fragmented", self._nickname(peer), f"{count} slices")
        if allocator.withheld is not None:
            find("withheld", str(allocator.us), f"nothing is given out: {allocator.withheld}")
        if not ring.is_seeded and allocator.pending_count:
            find(
                "no-quorum", str(allocator.range), "requests wait and nobody has divided the range"
            )
        if survey is not None:
            seen = {(f["what"], f["where"]) for f in found}
            theirs = compare(ring, survey, self._nickname)
            found += [f for f in theirs if (f["what"], f["where"]) not in seen]
        return {
            "range": str(allocator.range),
            "asked": [] if survey is None else self._asked(survey),
            "slices": len(ring.slices),
            "peers": len(counts),
            "used": len(allocator.allocations),
            "findings": found,
            "others": [],
        }

    def _asked(self, survey: Surveyed) -> list[Json]:
        own = survey.reports[self._allocator.us]
        answered = [
            {
                "peer": str(peer),
                "nickname": self._nickname(peer),
                "answered": True,
                "same_ring": report.ring == own.ring,
                "slices": report.owned_count,
                "used": report.used,
                "free": report.free,
                "resting": report.resting,
                "leaks": report.leaks,
            }
            for peer, report in sorted(survey.reports.items())
        ]
        nothing = dict.fromkeys(list(answered[0])[3:])
        return answered + [
            {"peer": str(p), "nickname": self._nickname(p), "answered": False, **nothing}
            for p in survey.silent
        ]

    def _is_there(self, peer: PeerName) -> bool:
        return peer == self._allocator.us or peer in self._reachable()


def _past(allocator: Allocator, row: Past) -> Json:
    return {
        "at": row.at,
        "what": row.what,
        "address": allocator.range.text(row.address),
        "container": row.container,
        "interface": row.interface,
    }
