"""Routes: the same shortest paths at every peer that has the same view (docs/protocol.md 8).

An edge carries frames when both its ends call it established; it costs the larger of the two
published round trips plus a toll per hop, which keeps paths from wandering over differences of
microseconds. Equal costs are decided by fewer hops, then by name, so there is no tie. Who has an
edge to the destination uses it unless the shortest path is clearly better: each hop either ends
there or leaves a lower cost, so nothing goes round.
Source: E. W. Dijkstra, 1959; one run per root.

Inside, peers are numbers in the order of their names: to compare numbers is to compare names.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh.names import PeerName
from mesh.topology.record import Record

HOP_TOLL_US = 200
"""Microseconds every hop adds to a path: what a relay costs on an idle machine."""


DIRECT_RATIO_PERCENT = 150
DIRECT_SLACK_US = 2_000
"""A relayed path is clearly better when the edge costs more than this share of it and this much on
top: a relay costs its processor and everybody's bandwidth, and more can go wrong."""


@dataclass(frozen=True, slots=True)
class Route:
    """``mtu``: the smallest datagram payload proven on any hop in this direction, 0 when one is
    unknown."""

    next_hop: PeerName
    hops: int
    cost_us: int
    mtu: int


Graph = list[list[tuple[int, int, int]]]
"""(neighbour, cost, mtu towards it) of each peer; neighbours and costs are symmetric."""


@dataclass(slots=True)
class Routes:
    """What one peer needs to forward: next hops, and its children in every broadcast tree.

    ``unicast``: over edges that carry frames. ``control_unicast``: over control connections, for
    messages between daemons. Neither has an entry for ``us``.
    """

    us: PeerName
    unicast: Mapping[PeerName, Route]
    control_unicast: Mapping[PeerName, PeerName]
    _names: list[PeerName]
    _numbers: dict[PeerName, int]
    _graph: Graph
    _children: dict[int, tuple[PeerName, ...]] = field(default_factory=dict)

    def broadcast(self, origin: PeerName) -> tuple[PeerName, ...]:
        """Whom we pass a broadcast of ``origin`` on to; the same tree at every peer."""
        root, us = self._numbers.get(origin), self._numbers.get(self.us)
        if root is None or us is None:
            return ()
        if root not in self._children:
            parents = _tree(self._graph, root).parents
            self._children[root] = tuple(
                self._names[peer] for peer, parent in enumerate(parents) if parent == us
            )
        return self._children[root]


def compute(records: Mapping[PeerName, Record], us: PeerName) -> Routes:
    """The routes of ``us`` in this view, which contains ``us``."""
    names = sorted(records)
    numbers = {name: number for number, name in enumerate(names)}
    data, control = _graphs([records[name] for name in names], numbers)
    root = numbers[us]
    tree = _tree(data, root)
    unicast: dict[PeerName, Route] = {}
    edges = _Edges(data)
    for peer in tree.order[1:]:
        unicast[names[peer]] = _route(tree, edges, names, peer)
    if control is not data:
        tree = _tree(control, root)
    next_hops: dict[PeerName, PeerName] = {}
    for peer in tree.order[1:]:
        parent = tree.parents[peer]
        next_hops[names[peer]] = names[peer] if parent == root else next_hops[names[parent]]
    return Routes(us, unicast, next_hops, names, numbers, data)


class _Edges:
    """(cost, mtu) of an edge by its ends; the edges of a peer are indexed when one is wanted."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._of: dict[int, dict[int, tuple[int, int]]] = {}

    def get(self, peer: int, other: int) -> tuple[int, int] | None:
        edges = self._of.get(peer)
        if edges is None:
            edges = self._of[peer] = {to: (cost, mtu) for to, cost, mtu in self._graph[peer]}
        return edges.get(other)


def _route(tree: _Tree, edges: _Edges, names: list[PeerName], peer: int) -> Route:
    """Along the shortest path until a hop has an edge to the destination that is good enough."""
    path = [peer]
    while (parent := tree.parents[path[-1]]) != -1:
        path.append(parent)
    path.reverse()
    mtu, total = 1 << 16, tree.costs[peer]
    for hop, here in enumerate(path):
        edge = edges.get(here, peer)
        left = total - tree.costs[here]
        if edge is not None and is_good_enough(edge[0], left):
            next_hop = peer if hop == 0 else path[1]
            return Route(names[next_hop], hop + 1, tree.costs[here] + edge[0], min(mtu, edge[1]))
        onward = edges.get(here, path[hop + 1])
        assert onward is not None
        mtu = min(mtu, onward[1])
    raise AssertionError("the last edge of a path is as good as the path's end")


def is_good_enough(direct_us: int, relayed_us: int) -> bool:
    """Whether an edge to the destination is used although the rest of a path costs this."""
    return 100 * direct_us <= DIRECT_RATIO_PERCENT * relayed_us + 100 * DIRECT_SLACK_US


def _graphs(records: list[Record], numbers: dict[PeerName, int]) -> tuple[Graph, Graph]:
    """(edges that carry frames, edges that carry control messages), those both ends know of."""
    control: Graph = [[] for _ in records]
    silent: set[tuple[int, int]] = set()
    sides = [{edge.peer: edge for edge in record.edges} for record in records]
    for name, low in numbers.items():
        of_low = control[low]
        for other, edge in sides[low].items():
            high = numbers.get(other, -1)
            if high <= low or (back := sides[high].get(name)) is None:
                continue
            cost = max(edge.cost_us, back.cost_us) + HOP_TOLL_US
            of_low.append((high, cost, edge.mtu))
            control[high].append((low, cost, back.mtu))
            if not (edge.established and back.established):
                silent.update(((low, high), (high, low)))
    if not silent:
        return control, control
    data = [
        [edge for edge in edges if (peer, edge[0]) not in silent]
        for peer, edges in enumerate(control)
    ]
    return data, control


@dataclass(slots=True)
class _Tree:
    """Per peer what leads to it, -1 where nothing does; ``order``: settled, the root first."""

    costs: list[int]
    hops: list[int]
    parents: list[int]
    order: list[int]


def _tree(graph: Graph, root: int) -> _Tree:
    """Of all shortest paths from ``root`` the one with fewest hops, then with the lowest parent."""
    size = len(graph)
    tree = _Tree([-1] * size, [-1] * size, [-1] * size, [])
    best: list[tuple[int, int, int] | None] = [None] * size
    settled = [False] * size
    heap: list[tuple[int, int, int, int]] = [(0, 0, -1, root)]
    while heap:
        cost, hops, parent, peer = heapq.heappop(heap)
        if settled[peer]:
            continue
        settled[peer] = True
        tree.costs[peer], tree.hops[peer], tree.parents[peer] = cost, hops, parent
        tree.order.append(peer)
        for other, step, _ in graph[peer]:
            if settled[other]:
                continue
            known = best[other]
            reached = cost + step
            if known is not None and known[0] < reached:
                continue
            offer = (reached, hops + 1, peer)
            if known is None or offer < known:
                best[other] = offer
                heapq.heappush(heap, (reached, hops + 1, peer, other))
    return tree
