"""Peers, their records and whole views of a mesh, made for tests from small numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from mesh.crypto.identity import Identity
from mesh.gossip.channel import Item
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
from mesh.topology.record import Edge, Record
from mesh.topology.topology import Topology


@cache
def identity(number: int) -> Identity:
    """The same peer for the same number, everywhere."""
    return Identity.from_seed(number.to_bytes(32, "big"))


def name(number: int) -> PeerName:
    return identity(number).name


def numbers_by_name(count: int) -> list[int]:
    """The first ``count`` peers, the lowest name first."""
    return sorted(range(count), key=name)


def edge(
    peer: int,
    cost: int = 1000,
    *,
    established: bool = True,
    mtu: int = 1400,
    host: str = "",
    kernel: bool = False,
) -> Edge:
    endpoint = Endpoint(host, 6783) if host else None
    return Edge(name(peer), cost, established, mtu, endpoint, kernel)


def record(
    number: int,
    version: int = 1,
    edges: Iterable[Edge] = (),
    *,
    uid: int = 1,
    short_id: int | None = None,
    nickname: str = "peer",
) -> Record:
    """Genuine."""
    ordered = tuple(sorted(edges, key=lambda e: e.peer))
    own = identity(number)
    return Record(
        own.public_key,
        PeerUID(uid),
        version,
        None if short_id is None else ShortID(short_id),
        1420,
        nickname,
        "weaver test",
        ("sleeve",),
        (("speed", "fast"),),
        ordered,
    ).signed(own)


def item(of: Record) -> Item:
    return Item(of.name.octets, of.stamp, of.encode())


def topology(number: int, seed: int = 0, uid: int = 1, **settings: int) -> Topology:
    hint = settings.get("short_id")
    return Topology(
        identity(number),
        PeerUID(uid),
        f"peer{number}",
        Random(seed),
        short_id_hint=None if hint is None else ShortID(hint),
    )


@dataclass(frozen=True, slots=True)
class Wire:
    """An edge of a graph that both ends list."""

    low: int
    high: int
    costs: tuple[int, int] = (1000, 1000)
    established: tuple[bool, bool] = (True, True)
    mtus: tuple[int, int] = (1400, 1400)
    kernel: tuple[bool, bool] = (False, False)


def view(peers: Iterable[int], wires: Iterable[Wire]) -> Mapping[PeerName, Record]:
    """The records of a mesh with these edges; unsigned, for whom only the graph matters."""
    edges: dict[int, dict[int, Edge]] = {peer: {} for peer in peers}
    for wire in wires:
        ends = ((wire.low, wire.high), (wire.high, wire.low))
        for side, (here, there) in enumerate(ends):
            edges[here][there] = edge(
                there,
                wire.costs[side],
                established=wire.established[side],
                mtu=wire.mtus[side],
                kernel=wire.kernel[side],
            )
    return {
        name(peer): Record(
            identity(peer).public_key,
            PeerUID(1),
            1,
            None,
            1420,
            "peer",
            "weaver test",
            edges=tuple(sorted(sides.values(), key=lambda e: e.peer)),
        )
        for peer, sides in edges.items()
    }
