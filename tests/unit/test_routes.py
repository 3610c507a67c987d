"""Routes and broadcast trees of small graphs whose answers are plain."""

from __future__ import annotations

from time import process_time

from mesh.names import PeerName
from mesh.topology.routes import DIRECT_RATIO_PERCENT, DIRECT_SLACK_US, HOP_TOLL_US, Route, compute
from tests.sim.views import Wire, name, numbers_by_name, view


def test_a_chain() -> None:
    """protocol.md 8.1, 8.2: costs of both directions' maximum, a toll a hop, the least mtu
    of this direction."""
    wires = [Wire(1, 2, (100, 300), mtus=(1400, 1300)), Wire(2, 3, (50, 20), mtus=(1350, 1380))]
    routes = compute(view([1, 2, 3], wires), name(1))
    assert routes.unicast == {
        name(2): Route(name(2), 1, 300 + HOP_TOLL_US, 1400),
        name(3): Route(name(2), 2, 350 + 2 * HOP_TOLL_US, 1350),
    }
    back = compute(view([1, 2, 3], wires), name(3)).unicast
    assert back[name(1)] == Route(name(2), 2, 350 + 2 * HOP_TOLL_US, 1300)
    assert routes.control_unicast == {name(2): name(2), name(3): name(2)}
    assert routes.broadcast(name(1)) == (name(2),)
    assert routes.broadcast(name(3)) == ()


def test_a_cheap_way_round_beats_a_dear_direct_edge() -> None:
    """protocol.md 8.2: lowest cost."""
    wires = [Wire(1, 3, (9000, 9000)), Wire(1, 2), Wire(2, 3)]
    routes = compute(view([1, 2, 3], wires), name(1))
    assert routes.unicast[name(3)] == Route(name(2), 2, 2 * (1000 + HOP_TOLL_US), 1400)


def test_an_edge_is_used_unless_the_way_round_is_clearly_better() -> None:
    """protocol.md 8.2: half as dear again and two milliseconds are the least that is clear."""
    round_ = 2 * (10_000 + HOP_TOLL_US)
    limit = round_ * DIRECT_RATIO_PERCENT // 100 + DIRECT_SLACK_US - HOP_TOLL_US
    for cost, hop in ((limit, 3), (limit + 1, 2)):
        wires = [Wire(1, 3, (cost, 1)), Wire(1, 2, (10_000, 1)), Wire(2, 3, (10_000, 1))]
        routes = compute(view([1, 2, 3], wires), name(1))
        assert routes.unicast[name(3)].next_hop == name(hop)


def test_a_relay_may_go_straight_where_the_shortest_path_would_not() -> None:
    """protocol.md 8.2: what the sender computes is what the relays do."""
    wires = [
        Wire(1, 2, (1000, 1), mtus=(1300, 1400)),
        Wire(2, 3, (1000, 1)),
        Wire(3, 4, (1000, 1), mtus=(1250, 1400)),
        Wire(2, 4, (4000, 1), mtus=(1500, 1400)),
    ]
    routes = compute(view([1, 2, 3, 4], wires), name(1))
    assert routes.unicast[name(4)] == Route(name(2), 2, 5000 + 2 * HOP_TOLL_US, 1300)


def test_fewer_hops_decide_equal_costs() -> None:
    """protocol.md 8.2: of equal ones the one with fewest hops."""
    direct = 2 * 1000 + HOP_TOLL_US
    wires = [Wire(1, 3, (direct, direct)), Wire(1, 2), Wire(2, 3)]
    routes = compute(view([1, 2, 3], wires), name(1))
    assert routes.unicast[name(3)] == Route(name(3), 1, direct + HOP_TOLL_US, 1400)


def test_the_lower_relay_decides_the_rest() -> None:
    """protocol.md 8.2: then the one whose last relay has the lowest name."""
    a, low, high, b = 0, *sorted((1, 2), key=name), 3
    wires = [Wire(a, low), Wire(a, high), Wire(low, b), Wire(high, b)]
    records = view([a, low, high, b], wires)
    assert compute(records, name(a)).unicast[name(b)].next_hop == name(low)
    assert name(b) in compute(records, name(low)).broadcast(name(a))
    assert compute(records, name(high)).broadcast(name(a)) == ()


def test_an_edge_needs_both_ends() -> None:
    """protocol.md 8.1: listed by both for control, established at both for frames."""
    records = dict(view([1, 2, 3], [Wire(1, 2, established=(True, False)), Wire(2, 3)]))
    routes = compute(records, name(1))
    assert routes.unicast == {}
    assert routes.control_unicast == {name(2): name(2), name(3): name(2)}
    records[name(2)] = view([2, 3], [Wire(2, 3)])[name(2)]
    assert compute(records, name(1)).control_unicast == {}
    assert set(compute(records, name(2)).unicast) == {name(3)}


def test_an_edge_to_nobody_is_no_edge() -> None:
    records = dict(view([1, 2, 9], [Wire(1, 2), Wire(1, 9)]))
    del records[name(9)]
    assert set(compute(records, name(1)).unicast) == {name(2)}


def test_strangers_have_no_tree() -> None:
    """protocol.md 8.3: an origin outside the component, or unknown, makes us pass on nothing."""
    routes = compute(view([1, 2, 3, 4], [Wire(1, 2), Wire(3, 4)]), name(1))
    assert routes.broadcast(name(3)) == ()
    assert routes.broadcast(PeerName(b"unheard-")) == ()
    assert routes.broadcast(name(1)) == (name(2),)


def test_an_unknown_mtu_is_unknown_for_the_path() -> None:
    routes = compute(view([1, 2, 3], [Wire(1, 2), Wire(2, 3, mtus=(0, 1400))]), name(1))
    assert routes.unicast[name(3)].mtu == 0
    assert routes.unicast[name(2)].mtu == 1400


def test_three_hundred_peers_in_a_full_mesh() -> None:
    """Fast enough to be done at every change: the bound is four times what it takes."""
    peers = numbers_by_name(300)
    wires = [Wire(a, b, (a * b % 997, a * b % 991)) for a in peers for b in peers if a < b]
    records = view(peers, wires)
    start = process_time()
    routes = compute(records, name(0))
    assert len(routes.unicast) == 299
    assert process_time() - start < 0.4
    start = process_time()
    routes.broadcast(name(1))
    assert process_time() - start < 0.1
    start = process_time()
    routes.broadcast(name(1))
    assert process_time() - start < 0.001, "remembered"
