"""What is wrong between peers, by what each says of its own addresses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from ipam.address import AddressRange
from ipam.effects import Surveyed
from ipam.report import Place, Report
from ipam.ring import Ring
from mesh.names import PeerName

MAX_FINDINGS = 100
"""Of one kind: people read them."""

FRAGMENTS = 64
"""Slices of one peer above which somebody should know: each costs everybody 190 octets."""

Finding = dict[str, str]
Nickname = Callable[[PeerName], str]


def compare(ring: Ring, survey: Surveyed, nickname: Nickname) -> list[Finding]:
    """Worst first."""
    range, us = ring.range, ring.us
    own = survey.reports[us]
    others = {p: r for p, r in survey.reports.items() if p != us}
    found: list[Finding] = []

    def find(what: str, peer: PeerName, where: str, why: str) -> None:
        found.append({"what": what, "where": where, "why": f"{nickname(peer)}: {why}"})

    same = {p: r for p, r in survey.reports.items() if r.cluster == own.cluster}
    for peer, other, place in _overlaps(same):
        find("overlap", peer, _text(range, place), f"so does {nickname(other)} believe to own it")
    for peer, report in others.items():
        if any(own.cluster) and any(report.cluster) and own.cluster != report.cluster:
            find("cluster-mismatch", peer, str(range), f"is of cluster {report.cluster.hex()}")
        elif report.ring != own.ring:
            sizes = f"{report.slices} slices, {own.slices} here"
            find("ring-differs", peer, str(range), f"its ring is not ours: {sizes}")
    for peer, place in islice(_disowned(ring, same), MAX_FINDINGS):
        find("disowned", peer, _text(range, place), "does not say that it owns it")
    for peer, report in others.items():
        for what, places in (("disputed", report.disputed), ("gap", report.gaps)):
            for place in places:
                find(what, peer, _text(range, place), "says so")
        for address in report.astray:
            find("astray", peer, range.text(address), "in use there, in another's space")
        if report.leaks:
            find("leak", peer, nickname(peer), f"suspects {report.leaks} of its addresses")
        if report.withheld:
            find("withheld", peer, nickname(peer), f"nothing is given out: {report.withheld}")
        if report.owned_count > FRAGMENTS:
            find("fragmented", peer, nickname(peer), f"{report.owned_count} slices")
        if report.excluded != own.excluded:
            find("exclusions-differ", peer, str(range), "excludes other addresses than we")
    for peer in survey.silent:
        find("silent", peer, nickname(peer), "in reach, and did not say how it is")
    return found


def has_settled(ring: Ring, survey: Surveyed) -> bool:
    """Whether nothing is seen that gossip under way explains."""
    own = survey.reports[ring.us]
    same = {p: r for p, r in survey.reports.items() if r.cluster == own.cluster}
    if any(r.ring != own.ring for r in same.values()) or any(True for _ in _disowned(ring, same)):
        return False
    return not any(True for _ in _overlaps(same))


def _overlaps(
    reports: Mapping[PeerName, Report],
) -> Iterable[tuple[PeerName, PeerName, Place]]:
    """What two peers both say to own."""
    extents = sorted(
        (start, end, peer) for peer, report in reports.items() for start, end, _ in report.owned
    )
    count = 0
    reach: tuple[int, PeerName] | None = None
    for start, end, peer in extents:
        if reach is not None and start < reach[0] and peer != reach[1] and count < MAX_FINDINGS:
            count += 1
            yield peer, reach[1], (start, type(start)(min(end, reach[0])))
        if reach is None or end > reach[0]:
            reach = end, peer


def _disowned(ring: Ring, reports: Mapping[PeerName, Report]) -> Iterable[tuple[PeerName, Place]]:
    """What is another's by our ring, and not by its own account; of those that gave all of it."""
    for peer, report in reports.items():
        if peer == ring.us or not report.is_whole:
            continue
        said = sorted((start, end) for start, end, _ in report.owned)
        for piece in ring.owned(peer):
            at: int = piece.start
            for start, end in said:
                if start <= at < end:
                    at = end
            if at < piece.end:
                yield peer, (piece.start, piece.end)


def _text(range: AddressRange, place: Place) -> str:
    return f"{range.text(place[0])} to {range.text(place[1] - 1)}"
