"""Routes and trees over random graphs, against slow and obvious models."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import hypothesis.strategies as st
from hypothesis import given

from mesh.names import PeerName
from mesh.topology.record import Record
from mesh.topology.routes import HOP_TOLL_US, Routes, compute
from tests.sim.views import Wire, name, view

PEERS = 9
small = st.integers(0, 4).map(lambda n: n * HOP_TOLL_US)
"""Multiples of the toll: paths of equal cost and unequal length are frequent."""
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
    """Half of all edges, with five costs: many paths that tie."""
    rng = draw(st.randoms(use_true_random=False))
    return [
        Wire(low, high, (rng.randrange(5) * HOP_TOLL_US, 0))
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


@given(wires)
def test_routes_against_the_slow_way(graph: list[Wire]) -> None:
    """protocol.md 8.2: lowest cost, then fewest hops, as relaxing every edge finds them."""
    records = view(range(PEERS), graph)
    carrying = [wire for wire in graph if all(wire.established)]
    for peer in range(PEERS):
        routes = compute(records, name(peer))
        found = {to: (route.cost_us, route.hops) for to, route in routes.unicast.items()}
        assert found == {name(n): best for n, best in distances(carrying, peer).items()}
        assert set(routes.control_unicast) == {name(n) for n in distances(graph, peer)}


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
    path its sender computed: as many hops, and no mtu below the route's."""
    records = view(range(PEERS), graph)
    routes = all_routes(records)
    pairs = {frozenset((name(w.low), name(w.high))): min(w.mtus) for w in graph}
    for source in records:
        for destination, route in routes[source].unicast.items():
            at, hops, mtu = source, 0, 1 << 16
            while at != destination:
                onward = routes[at].unicast[destination].next_hop
                mtu = min(mtu, pairs[frozenset((at, onward))])
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
