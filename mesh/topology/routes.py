"""Routes: the same shortest paths at every peer that has the same view (docs/protocol.md 8).

An edge carries frames when both its ends call it established; it costs the larger of the two
published round trips plus a toll per hop, which keeps paths from wandering over differences of
microseconds. Equal costs are decided by fewer hops, then by name, so there is no tie. Who has an
edge to the destination uses it unless the shortest path is clearly better: each hop either ends
there or leaves a lower cost, so nothing goes round.
Source: E. W. Dijkstra, 1959; one run per root.

The two overlays have a graph each, and nothing changes from one into the other on its way: a pair
uses the kernel's where every hop of its path does. So an origin's broadcasts go along two trees,
and each peer is served by exactly one of them (docs/protocol.md 14.3).

Inside, peers are numbers in the order of their names: to compare numbers is to compare names.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mesh.names import PeerName
from mesh.topology.record import Record

HOP_TOLL_US = 200
"""Microseconds every hop adds to a path: what a relay costs on an idle machine."""


DIRECT_RATIO_PERCENT = 150
DIRECT_SLACK_US = 2_000
"""A relayed path is clearly better when the edge costs more than this share of it and this much on
top: a relay costs its processor and everybody's bandwidth, and more can go wrong."""


FANOUT = 8
"""Children of a peer in a broadcast tree of the kernel, where others can take the rest: copies are
made one after another in one softirq, 3 to 6 microseconds each."""


SEGMENT_TOLL = 22
"""Octets of Ethernet and VXLAN header in a datagram's payload."""

IPV6_LEAST = 1280
"""Octets of packet that every IPv6 link carries (RFC 8200 5); of less no stack can be told."""

UNKNOWN_SEGMENT = 1200
"""No more than this is where the search for a segment begins, and says nothing."""

NEAR = 12
"""Bits of a cost in microseconds up to which all neighbours are equally near: 4 ms."""


@dataclass(frozen=True, slots=True)
class Route:
    """``mtu``: the smallest datagram payload proven on any hop in this direction, 0 when one is
    unknown; in the kernel the largest packet of pods that every hop and both its ends take."""

    next_hop: PeerName
    hops: int
    cost_us: int
    mtu: int


Graph = list[list[tuple[int, int, int]]]
"""(neighbour, cost, mtu towards it) of each peer; neighbours and costs are symmetric."""

Graphs = tuple[Graph, Graph, Graph | None]
"""Of edges that carry frames by sleeve, that carry control messages, that carry frames in the
kernel (None when there are none)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Ours in the kernel's tree of an origin: whom its broadcasts come from, None when the origin
    is us, and whom we pass them on to."""

    parent: PeerName | None
    children: tuple[PeerName, ...]


@dataclass(slots=True)
class Routes:
    """What one peer needs to forward: next hops, and its children in every broadcast tree.

    ``unicast``: by sleeve, over edges that carry frames. ``kernel``: over those that carry them in
    the kernel. ``control_unicast``: over control connections, for messages between daemons. None
    has an entry for ``us``.
    """

    us: PeerName
    unicast: Mapping[PeerName, Route]
    control_unicast: Mapping[PeerName, PeerName]
    kernel: Mapping[PeerName, Route]
    _names: list[PeerName]
    _numbers: dict[PeerName, int]
    _graph: Graph
    _kernel: _Kernel | None
    _children: dict[int, tuple[PeerName, ...]] = field(default_factory=dict)

    def broadcast(self, origin: PeerName) -> tuple[PeerName, ...]:
        """Whom we pass a broadcast of ``origin`` on to by sleeve; the same tree at every peer.

        Branches whose peers all get it by the kernel are left out.
        """
        root, us = self._numbers.get(origin), self._numbers.get(self.us)
        if root is None or us is None:
            return ()
        if root not in self._children:
            tree = _tree(self._graph, root)
            served = frozenset() if self._kernel is None else self._kernel.served(root)
            wanting = _wanting(tree, served) if served else None
            self._children[root] = tuple(
                self._names[peer]
                for peer, parent in enumerate(tree.parents)
                if parent == us and (wanting is None or wanting[peer])
            )
        return self._children[root]

    @property
    def relays_in_kernel(self) -> bool:
        """Whether frames of others pass in the kernel."""
        return self._kernel is not None and self._kernel.relays

    def kernel_place(self, origin: PeerName) -> Place | None:
        """Where we are in the kernel's tree of this origin, None when we are not."""
        root, us = self._numbers.get(origin), self._numbers.get(self.us)
        if root is None or us is None or self._kernel is None:
            return None
        parents = self._kernel.branches(root)
        if root != us and parents[us] == -1:
            return None
        children = tuple(self._names[p] for p, parent in enumerate(parents) if parent == us)
        return Place(None if root == us else self._names[parents[us]], children)

    def kernel_branches(
        self, origin: PeerName, wanted: Collection[PeerName]
    ) -> frozenset[PeerName]:
        """Our children in the kernel's tree of this origin that lead to any of these."""
        root, us = self._numbers.get(origin), self._numbers.get(self.us)
        if root is None or us is None or self._kernel is None:
            return frozenset()
        parents, leading = self._kernel.branches(root), set[int]()
        for name in wanted:
            peer = self._numbers.get(name, -1)
            while peer != -1 and peer not in leading:
                leading.add(peer)
                peer = parents[peer]
        return frozenset(self._names[peer] for peer in leading if parents[peer] == us)

    def kernel_relays(self, source: PeerName) -> tuple[PeerName, ...]:
        """Neighbours that hand frames of this source to us: those on its path that reach us."""
        root, us = self._numbers.get(source), self._numbers.get(self.us)
        if root is None or us is None or self._kernel is None or root == us:
            return ()
        parents, graph = self._kernel.parents(root), self._kernel.graph
        beside = {to for to, _, _ in graph[us]}
        found, hop = [], parents[us]
        while hop != -1:
            if hop in beside:
                found.append(self._names[hop])
            hop = parents[hop]
        return tuple(found)


def compute(
    records: Mapping[PeerName, Record], us: PeerName, *, kernel_relays: bool = True
) -> Routes:
    """The routes of ``us`` in this view, which contains ``us``.

    ``kernel_relays``: whether frames pass through others in the kernel. Not where frames of other
    pairs are sealed: two that trust the way between them do not vouch for a third one's.
    """
    names = sorted(records)
    numbers = {name: number for number, name in enumerate(names)}
    data, control, fast = _graphs([records[name] for name in names], numbers)
    root = numbers[us]
    unicast = _unicast(data, root, names)
    tree = _tree(control, root)
    next_hops: dict[PeerName, PeerName] = {}
    for peer in tree.order[1:]:
        parent = tree.parents[peer]
        next_hops[names[peer]] = names[peer] if parent == root else next_hops[names[parent]]
    kernel = None if fast is None else _Kernel(fast, kernel_relays)
    by_kernel: dict[PeerName, Route] = {}
    if kernel is not None and kernel_relays:
        by_kernel = _unicast(kernel.graph, root, names)
    elif kernel is not None:
        by_kernel = {
            names[peer]: Route(names[peer], 1, cost, mtu) for peer, cost, mtu in kernel.graph[root]
        }
    return Routes(us, unicast, next_hops, by_kernel, names, numbers, data, kernel)


class _Kernel:
    """Edges that carry frames in the kernel, and the trees along them, each made when wanted."""

    def __init__(self, graph: Graph, relays: bool) -> None:
        self.graph, self.relays = graph, relays
        self._parents: dict[int, list[int]] = {}
        self._branches: dict[int, list[int]] = {}

    def parents(self, root: int) -> list[int]:
        """Of each peer in the tree of this origin; -1 for the root and for whom it misses."""
        if root not in self._parents:
            if self.relays:
                self._parents[root] = _tree(self.graph, root).parents
            else:
                self._parents[root] = parents = [-1] * len(self.graph)
                for peer, _, _ in self.graph[root]:
                    parents[peer] = root
        return self._parents[root]

    def branches(self, root: int) -> list[int]:
        """Parents in the broadcast tree of this origin: where there is a choice of relays, nobody
        has more than FANOUT children, or an origin with many neighbours would send them all."""
        if root not in self._branches:
            if self.relays:
                self._branches[root] = _branches(self.graph, _tree(self.graph, root))
            else:
                self._branches[root] = self.parents(root)
        return self._branches[root]

    def served(self, root: int) -> frozenset[int]:
        """Whom this origin reaches in the kernel."""
        return frozenset(p for p, parent in enumerate(self.parents(root)) if parent != -1)


def _branches(graph: Graph, tree: _Tree) -> list[int]:
    """Each peer in turn, the origin first, takes its FANOUT nearest neighbours that have no parent
    yet; who is left over stays with its parent on the shortest path.

    How near is told by powers of two: a tree that changes is missed by some for a moment, and small
    changes of cost are not worth that.
    """
    root = tree.order[0]
    parents = [-1] * len(graph)
    waiting, reached = deque([root]), {root}
    left = deque(tree.order[1:])
    while len(reached) < len(tree.order):
        if not waiting:
            while left[0] in reached:
                left.popleft()
            # All of its neighbours that were reached have their fill.
            peer = left.popleft()
            parents[peer] = tree.parents[peer]
            reached.add(peer)
            waiting.append(peer)
            continue
        here = waiting.popleft()
        nearest = sorted(
            (max(cost.bit_length(), NEAR), to) for to, cost, _ in graph[here] if to not in reached
        )
        for _, to in nearest[:FANOUT]:
            parents[to] = here
            reached.add(to)
            waiting.append(to)
    return parents


def _wanting(tree: _Tree, served: frozenset[int]) -> list[bool]:
    """Of each peer whether it, or one behind it, is not served otherwise."""
    wanting = [False] * len(tree.parents)
    for peer in reversed(tree.order):
        if peer not in served:
            wanting[peer] = True
        if wanting[peer] and tree.parents[peer] != -1:
            wanting[tree.parents[peer]] = True
    return wanting


def _unicast(graph: Graph, root: int, names: list[PeerName]) -> dict[PeerName, Route]:
    tree, edges = _tree(graph, root), _Edges(graph)
    return {names[peer]: _route(tree, edges, names, peer) for peer in tree.order[1:]}


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


def _graphs(records: list[Record], numbers: dict[PeerName, int]) -> Graphs:
    """Of the edges that both ends know of."""
    control: Graph = [[] for _ in records]
    silent: set[tuple[int, int]] = set()
    fast: set[tuple[int, int]] = set()
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
            if edge.kernel and back.kernel:
                fast.update(((low, high), (high, low)))
    data = control
    if silent:
        data = [
            [edge for edge in edges if (peer, edge[0]) not in silent]
            for peer, edges in enumerate(control)
        ]
    if not fast:
        return data, control, None
    return (
        data,
        control,
        [
            [
                (to, cost, _packet(records[peer], records[to], mtu))
                for to, cost, mtu in edges
                if (peer, to) in fast
            ]
            for peer, edges in enumerate(control)
        ],
    )


def carried(segment: int) -> int | None:
    """Octets of a pod's packet that a path takes in the kernel whose datagrams have this payload;
    None where that is not known. Not less than IPv6 must be given: who takes less is found out by
    heartbeats, and left to the sleeve."""
    return max(IPV6_LEAST, segment - SEGMENT_TOLL) if segment > UNKNOWN_SEGMENT else None


def _packet(here: Record, there: Record, segment: int) -> int:
    known = carried(segment)
    least = min(here.mtu, there.mtu)
    return least if known is None else min(least, known)


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
