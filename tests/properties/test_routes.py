"""Routes and trees over random graphs, against slow and obvious models."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import hypothesis.strategies as st
from hypothesis import given

from mesh.names import PeerName
from mesh.topology.record import Record
from mesh.topology.routes import HOP_TOLL_US, Route, Routes, compute, is_good_enough
from tests.sim.views import Wire, name, view

PEERS = 9
TOLLS = (0, 1, 2, 3, 4, 15, 40)
small = st.sampled_from(TOLLS).map(lambda n: n * HOP_TOLL_US)
"""Multiples of the toll: paths of equal cost and unequal length are frequent. Some edges are so
dear that the way round is clearly better."""
both = st.tuples(small, small)
carries = st.tuples(st.booleans() | st.just(True), st.booleans() | st.just(True))
mtus = st.tuples(st.integers(1200, 1500), st.integers(1200, 1500))
sparse = st.lists(
    st.builds(Wire, st.integers(0, PEERS - 1), st.integers(0, PEERS - 1), both, carries, mtus),
    max_size=25,
    unique_by=lambda wire: frozenset((wire.low, wire.high)),
).map(lambda found: [wire for wire in found if wire.low != wire.high])


@st.composite
def dense_graphs(draw: st.DrawFn) -> list[Wire]:
    """Half of all edges, with few costs: many paths that tie."""
    rng = draw(st.randoms(use_true_random=False))
    return [
        Wire(low, high, (rng.choice(TOLLS) * HOP_TOLL_US, 0))
        for low in range(PEERS)
        for high in range(low + 1, PEERS)
        if rng.random() < 0.5
    ]


wires = sparse | dense_graphs()


def all_routes(records: Mapping[PeerName, Record]) -> dict[PeerName, Routes]:
    return {peer: compute(records, peer) for peer in records}


def distances(graph: list[Wire], root: int) -> dict[int, tuple[int, int]]:
    """(cost, hops) of the best path to each peer, by relaxing until nothing changes."""
    best = {root: (0, 0)}
    for _ in range(PEERS):
        for wire in graph:
            for here, there in ((wire.low, wire.high), (wire.high, wire.low)):
                if here in best:
                    cost, hops = best[here]
                    offer = (cost + max(wire.costs) + HOP_TOLL_US, hops + 1)
                    best[there] = min(offer, best.get(there, offer))
    del best[root]
    return best


@given(wires)
def test_every_broadcast_reaches_every_peer_once(graph: list[Wire]) -> None:
    """protocol.md 8.3: flooding along the trees, exactly once at each peer of the component."""
    records = view(range(PEERS), graph)
    routes = all_routes(records)
    carrying = [wire for wire in graph if all(wire.established)]
    for origin in range(PEERS):
        heard = dict.fromkeys(records, 0)
        waiting = deque([name(origin)])
        while waiting:
            peer = waiting.popleft()
            heard[peer] += 1
            assert heard[peer] == 1
            waiting.extend(routes[peer].broadcast(name(origin)))
        component = {name(n) for n in distances(carrying, origin)} | {name(origin)}
        assert {peer for peer, times in heard.items() if times} == component


def directed(graph: list[Wire]) -> dict[tuple[int, int], tuple[int, int]]:
    """(cost, mtu in this direction) of every edge, both ways."""
    found = {}
    for wire in graph:
        cost = max(wire.costs) + HOP_TOLL_US
        found[wire.low, wire.high] = (cost, wire.mtus[0])
        found[wire.high, wire.low] = (cost, wire.mtus[1])
    return found


@given(wires)
def test_routes_against_the_slow_way(graph: list[Wire]) -> None:
    """protocol.md 8.2: an edge to the destination that is good enough; else the next hop of a
    shortest path, and from there on as that one goes on. The mtu is that of this direction."""
    routes = all_routes(view(range(PEERS), graph))
    carrying = [wire for wire in graph if all(wire.established)]
    edges = directed(carrying)
    best = {peer: distances(carrying, peer) | {peer: (0, 0)} for peer in range(PEERS)}
    numbers = {name(n): n for n in range(PEERS)}
    for peer in range(PEERS):
        found = routes[name(peer)].unicast
        assert set(found) == {name(n) for n in best[peer] if n != peer}
        for to, route in found.items():
            end, onward = numbers[to], numbers[route.next_hop]
            edge = edges.get((peer, end))
            if edge is not None and is_good_enough(edge[0], best[peer][end][0]):
                assert route == Route(to, 1, *edge)
                continue
            cost, mtu = edges[peer, onward]
            assert best[peer][end] == (cost + best[onward][end][0], 1 + best[onward][end][1])
            rest = routes[name(onward)].unicast.get(to)
            assert rest is not None
            assert route.cost_us == cost + rest.cost_us
            assert (route.hops, route.mtu) == (1 + rest.hops, min(mtu, rest.mtu))
        control = routes[name(peer)].control_unicast
        assert set(control) == {name(n) for n in distances(graph, peer)}


@given(wires)
def test_trees_against_the_slow_way(graph: list[Wire]) -> None:
    """protocol.md 8.2, 8.3: of all neighbours on a best path, the one with the lowest name is
    the parent."""
    routes = all_routes(view(range(PEERS), graph))
    carrying = [wire for wire in graph if all(wire.established)]
    for origin in range(PEERS):
        best = distances(carrying, origin) | {origin: (0, 0)}
        children: dict[int, set[PeerName]] = {n: set() for n in range(PEERS)}
        for peer in best.keys() - {origin}:
            parents = []
            for wire in carrying:
                if peer in (wire.low, wire.high):
                    other = wire.high if peer == wire.low else wire.low
                    cost, hops = best[other]
                    if (cost + max(wire.costs) + HOP_TOLL_US, hops + 1) == best[peer]:
                        parents.append(other)
            children[min(parents, key=name)].add(name(peer))
        for peer in range(PEERS):
            assert set(routes[name(peer)].broadcast(name(origin))) == children[peer]


@given(wires)
def test_every_hop_agrees_with_the_next(graph: list[Wire]) -> None:
    """protocol.md 8.2: followed hop by hop, each with its own routes, a frame arrives by the
    path its sender computed: as many hops, and the mtu of that direction."""
    records = view(range(PEERS), graph)
    routes = all_routes(records)
    mtus = {(name(a), name(b)): mtu for (a, b), (_, mtu) in directed(graph).items()}
    for source in records:
        for destination, route in routes[source].unicast.items():
            at, hops, mtu = source, 0, 1 << 16
            while at != destination:
                onward = routes[at].unicast[destination].next_hop
                mtu = min(mtu, mtus[at, onward])
                at, hops = onward, hops + 1
                assert hops <= PEERS
            assert (hops, mtu) == (route.hops, route.mtu)
        for destination in routes[source].control_unicast:
            at, hops = source, 0
            while at != destination:
                at, hops = routes[at].control_unicast[destination], hops + 1
                assert hops <= PEERS


@given(wires, st.permutations(range(PEERS)))
def test_the_order_of_records_does_not_matter(graph: list[Wire], order: list[int]) -> None:
    """protocol.md 8.2: two peers with the same records compute the same paths."""
    records = view(range(PEERS), graph)
    shuffled = {name(n): records[name(n)] for n in order}
    for peer in records:
        one, other = compute(records, peer), compute(shuffled, peer)
        assert (one.unicast, one.control_unicast) == (other.unicast, other.control_unicast)
        assert all(one.broadcast(origin) == other.broadcast(origin) for origin in records)
