"""What the router's parts know, as the topology wants it said, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.names import Endpoint, PeerName
from mesh.router.directs import Direct
from mesh.router.links import Links
from mesh.router.neighbours import Neighbours
from mesh.router.vigil import Vigil
from mesh.topology.published_cost import MAX_US
from mesh.topology.record import Edge, Record

UNSTEADY_US = 500_000
"""Microseconds that an unsteady path costs on top: any other way is taken, where there is one."""


def edges(neighbours: Neighbours, links: Links, vigil: Vigil) -> tuple[Edge, ...]:
    """Our connections as our record tells of them."""
    found = []
    for peer, conn in neighbours.by_peer.items():
        stream, direct = neighbours.streams[conn], links.direct[peer]
        assert stream.remote is not None
        found.append(
            Edge(
                peer,
                min(MAX_US, vigil.cost_us(peer, direct.probe.cost_rtt) + _doubt(direct)),
                direct.up,
                direct.segment if direct.up else 0,
                Endpoint(stream.endpoint.host, stream.remote.port),
                links.fastdp.is_well(peer),
            )
        )
    return tuple(sorted(found))


def _doubt(direct: Direct) -> int:
    return UNSTEADY_US if direct.up and not direct.steady else 0


def strangers(
    records: Mapping[PeerName, Record],
    us: PeerName,
    reachable: frozenset[PeerName],
    neighbours: Neighbours,
) -> dict[PeerName, frozenset[Endpoint]]:
    """Where others reach the peers that we have no connection to."""
    found: dict[PeerName, set[Endpoint]] = {}
    for record in records.values():
        for edge in record.edges:
            if edge.peer in neighbours.by_peer or edge.endpoint is None or edge.peer == us:
                continue
            if edge.peer in reachable:
                found.setdefault(edge.peer, set()).add(edge.endpoint)
    return {peer: frozenset(places) for peer, places in found.items()}


def unserved(record: Record | None, neighbours: Neighbours) -> tuple[PeerName, ...]:
    """Neighbours that who has this record does not serve itself: what it told us is for them."""
    beside = frozenset() if record is None else {edge.peer for edge in record.edges}
    return tuple(peer for peer in neighbours.by_peer if peer not in beside)
