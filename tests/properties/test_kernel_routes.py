"""Two overlays on one mesh: every broadcast reaches every peer once, over one of the two."""

from __future__ import annotations

from collections import Counter, deque

import hypothesis.strategies as st
from hypothesis import given

from mesh.names import PeerName
from mesh.topology.routes import FANOUT, HOP_TOLL_US, Routes, compute
from tests.sim.views import Wire, name, view

PEERS = 8
flags = st.tuples(st.booleans() | st.just(True), st.booleans() | st.just(True))
costs = st.tuples(*[st.sampled_from((0, 1, 2, 9, 40)).map(lambda n: n * HOP_TOLL_US)] * 2)
peers = st.integers(0, PEERS - 1)
wires = st.lists(
    st.builds(Wire, peers, peers, costs, flags, kernel=flags),
    max_size=20,
    unique_by=lambda wire: frozenset((wire.low, wire.high)),
).map(lambda found: [wire for wire in found if wire.low != wire.high])


def spread(routes: dict[PeerName, Routes], origin: PeerName) -> Counter[PeerName]:
    """How often each peer's pods hear a broadcast, as the two overlays pass it on."""
    heard: Counter[PeerName] = Counter()
    waiting = deque([(origin, "both")])
    while waiting:
        peer, overlay = waiting.popleft()
        place = routes[peer].kernel_place(origin)
        if overlay != "sleeve":
            if peer != origin:
                assert place is not None, "a copy for whom the tree misses"
                heard[peer] += 1
            onward = () if place is None else place.children
            waiting.extend((child, "kernel") for child in onward)
        if overlay != "kernel":
            if peer != origin and place is None:
                heard[peer] += 1
            waiting.extend((child, "sleeve") for child in routes[peer].broadcast(origin))
        assert len(waiting) < 4 * PEERS**2, "it goes round"
    return heard


def component(graph: list[Wire], root: int, *, kernel: bool, relays: bool) -> set[int]:
    found, new = {root}, {root}
    while new:
        new = {
            b
            for wire in graph
            for a, b in ((wire.low, wire.high), (wire.high, wire.low))
            if a in new and b not in found and all(wire.kernel if kernel else wire.established)
        }
        found |= new
        if not relays:
            break
    return found


@given(wires, st.booleans())
def test_every_broadcast_reaches_everybody_once(graph: list[Wire], relays: bool) -> None:
    """protocol.md 14.3: the kernel's tree and what the sleeve's has beside it, exactly once."""
    records = view(range(PEERS), graph)
    routes = {peer: compute(records, peer, kernel_relays=relays) for peer in records}
    for root in range(PEERS):
        by_kernel = component(graph, root, kernel=True, relays=relays)
        by_sleeve = component(graph, root, kernel=False, relays=True)
        want = {name(n): 1 for n in (by_kernel | by_sleeve) - {root}}
        assert spread(routes, name(root)) == want
        if by_sleeve <= by_kernel:
            assert not any(routes[peer].broadcast(name(root)) for peer in records), "for nobody"


@given(wires, st.booleans())
def test_both_ends_agree_on_the_overlay(graph: list[Wire], relays: bool) -> None:
    """protocol.md 14.2: who sends in the kernel is heard there, over hops that do the same."""
    records = view(range(PEERS), graph)
    routes = {peer: compute(records, peer, kernel_relays=relays) for peer in records}
    for a in records:
        for b, route in routes[a].kernel.items():
            assert a in routes[b].kernel
            assert routes[b].kernel_place(a) is not None
            at, before, hops = a, a, 0
            while at != b:
                before, at = at, routes[at].kernel[b].next_hop
                assert before == a or relays
                hops += 1
            assert hops == route.hops
            assert before in routes[b].kernel_relays(a)


@given(wires)
def test_relays_let_pass_what_the_path_brings(graph: list[Wire]) -> None:
    """protocol.md 14.4: wherever a frame comes by, its source is expected from that neighbour."""
    records = view(range(PEERS), graph)
    routes = {peer: compute(records, peer) for peer in records}
    for a in records:
        for b in routes[a].kernel:
            at = a
            while at != b:
                before, at = at, routes[at].kernel[b].next_hop
                if at != b:
                    assert before in routes[at].kernel_relays(a), "a relay of the path"


def test_without_the_kernel_nothing_is_different() -> None:
    records = view([1, 2, 3], [Wire(1, 2), Wire(2, 3, kernel=(True, False))])
    routes = compute(records, name(1))
    assert routes.kernel == {}
    assert routes.kernel_place(name(1)) is None
    assert routes.broadcast(name(1)) == (name(2),)


def test_an_origin_of_many_neighbours_sends_few_copies() -> None:
    """protocol.md 14.3: 64 peers beside it, at most an eighth of them get it from the origin."""
    everybody = range(65)
    wires = [Wire(a, b, kernel=(True, True)) for a in everybody for b in everybody if a < b]
    records = view(everybody, wires)
    routes = {peer: compute(records, peer) for peer in records}
    place = routes[name(0)].kernel_place(name(0))
    assert place is not None
    assert len(place.children) == FANOUT
    assert spread(routes, name(0)) == {peer: 1 for peer in records if peer != name(0)}


def test_a_hub_serves_whom_nobody_else_can() -> None:
    wires = [Wire(0, leaf, kernel=(True, True)) for leaf in range(1, 30)]
    records = view(range(30), wires)
    routes = {peer: compute(records, peer) for peer in records}
    assert spread(routes, name(3)) == {peer: 1 for peer in records if peer != name(3)}
