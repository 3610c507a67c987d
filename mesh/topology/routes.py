"""Routes: the same shortest paths at every peer that has the same view (docs/protocol.md 8).

An edge carries frames when both its ends call it established; it costs the larger of the two
published round trips plus a toll per hop, which keeps paths from wandering over differences of
microseconds. Equal costs are decided by fewer hops, then by name, so there is no tie.
Source: E. W. Dijkstra, 1959; one run per root.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.names import PeerName
from mesh.topology.record import Record

HOP_TOLL_US = 200
"""Microseconds every hop adds to a path: what a relay costs on an idle machine."""


@dataclass(frozen=True, slots=True)
class Route:
    """``mtu``: the smallest datagram payload proven on any hop, 0 when one is unknown."""

    next_hop: PeerName
    hops: int
    cost_us: int
    mtu: int


Graph = dict[PeerName, dict[PeerName, tuple[int, int]]]
"""Neighbour -> (cost, mtu) of each peer; symmetric."""


@dataclass
class Routes:
    """What one peer needs to forward: next hops, and its children in every broadcast tree."""

    us: PeerName
    unicast: Mapping[PeerName, Route]
    control_unicast: Mapping[PeerName, PeerName]
    _graph: Graph
    _children: dict[PeerName, tuple[PeerName, ...]] = field(default_factory=dict)

    def broadcast(self, origin: PeerName) -> tuple[PeerName, ...]:
        """Whom we pass a broadcast of ``origin`` on to; the same tree at every peer."""
        if origin not in self._children:
            parents = _tree(self._graph, origin)[1]
            mine = sorted(p for p, parent in parents.items() if parent == self.us)
            self._children[origin] = tuple(mine)
        return self._children[origin]


def compute(records: Mapping[PeerName, Record], us: PeerName) -> Routes:
    data, control = _graphs(records)
    costs, parents = _tree(data, us)
    unicast: dict[PeerName, Route] = {}
    # In order of distance, so that a peer's parent is done before it.
    for peer in sorted(parents, key=costs.__getitem__):
        parent = parents[peer]
        cost, hops, _ = costs[peer]
        mtu = data[parent][peer][1]
        if parent == us:
            unicast[peer] = Route(peer, 1, cost, mtu)
        else:
            before = unicast[parent]
            unicast[peer] = Route(before.next_hop, hops, cost, min(before.mtu, mtu))
    hops_to: dict[PeerName, PeerName] = {}
    control_costs, control_parents = _tree(control, us)
    for peer in sorted(control_parents, key=control_costs.__getitem__):
        parent = control_parents[peer]
        hops_to[peer] = peer if parent == us else hops_to[parent]
    return Routes(us, unicast, hops_to, data)


def _graphs(records: Mapping[PeerName, Record]) -> tuple[Graph, Graph]:
    """(edges that carry frames, edges that carry control messages)."""
    data: Graph = {name: {} for name in records}
    control: Graph = {name: {} for name in records}
    sides = {name: {e.peer: e for e in record.edges} for name, record in records.items()}
    for name, edges in sides.items():
        for peer, edge in edges.items():
            back = sides.get(peer, {}).get(name)
            if back is None:
                continue
            cost = max(edge.cost_us, back.cost_us) + HOP_TOLL_US
            control[name][peer] = (cost, 0)
            if edge.established and back.established:
                data[name][peer] = (cost, min(edge.mtu, back.mtu))
    return data, control


Cost = tuple[int, int, bytes]


def _tree(graph: Graph, root: PeerName) -> tuple[dict[PeerName, Cost], dict[PeerName, PeerName]]:
    """(cost, hops, name of the parent) and parent of every peer that ``root`` reaches."""
    costs: dict[PeerName, Cost] = {}
    parents: dict[PeerName, PeerName] = {}
    heap: list[tuple[int, int, bytes, bytes]] = [(0, 0, b"", root.octets)]
    while heap:
        cost, hops, parent, octets = heapq.heappop(heap)
        peer = PeerName(octets)
        if peer in costs:
            continue
        costs[peer] = (cost, hops, parent)
        if parent:
            parents[peer] = PeerName(parent)
        for other, (step, _) in graph.get(peer, {}).items():
            if other not in costs:
                heapq.heappush(heap, (cost + step, hops + 1, octets, other.octets))
    return costs, parents
