"""The lab's planning core: shapes, addresses, targets, and what it refuses."""

from __future__ import annotations

import pytest

from mesh.errors import OperatorError
from weaver.lab.plan import (
    MESH_TARGETS,
    Order,
    Plan,
    Shape,
    check_name,
    draw,
    owns_namespace,
    parse_deny,
)


def pairs(plan: Plan) -> set[str]:
    return {f"{wire.a.name}-{wire.b.name}" for wire in plan.wires}


@pytest.mark.parametrize(
    ("shape", "hosts", "expected"),
    [
        (Shape.MESH, 4, {"h1-h2", "h1-h3", "h1-h4", "h2-h3", "h2-h4", "h3-h4"}),
        (Shape.CHAIN, 4, {"h1-h2", "h2-h3", "h3-h4"}),
        (Shape.STAR, 4, {"h1-h2", "h1-h3", "h1-h4"}),
        (Shape.RING, 4, {"h1-h2", "h2-h3", "h3-h4", "h1-h4"}),
        (Shape.RING, 2, {"h1-h2"}),
        (Shape.MESH, 1, set()),
    ],
)
def test_shapes(shape: Shape, hosts: int, expected: set[str]) -> None:
    assert pairs(draw(Order(hosts=hosts, shape=shape))) == expected


def test_names_follow_the_documented_pattern() -> None:
    plan = draw(Order(hosts=2, pods=2, shape=Shape.CHAIN))
    assert [h.namespace for h in plan.hosts] == ["weaver-h1", "weaver-h2"]
    assert [(p.name, p.namespace) for p in plan.hosts[1].pods] == [
        ("h2-p1", "weaver-h2-p1"),
        ("h2-p2", "weaver-h2-p2"),
    ]
    assert plan.place("h2-p2").namespace == "weaver-h2-p2"
    assert plan.place("h1").namespace == "weaver-h1"


def test_every_host_has_its_own_addresses_even_in_the_largest_lab() -> None:
    plan = draw(Order(hosts=500, shape=Shape.CHAIN))
    assert len({h.underlay for h in plan.hosts}) == 500
    assert len({h.underlay6 for h in plan.hosts}) == 500
    assert (plan.hosts[0].underlay, plan.hosts[0].underlay6) == ("172.31.0.1", "fd00:6c61:62::1")
    assert plan.hosts[299].underlay == "172.31.1.44"


def test_both_ends_of_a_wire_are_named_after_where_they_lead() -> None:
    (wire,) = draw(Order(hosts=2)).wires
    assert [(here.name, device, far.name) for here, device, far in wire.ends] == [
        ("h1", "to-h2", "h2"),
        ("h2", "to-h1", "h1"),
    ]


def test_device_names_fit_the_kernels_fifteen_octets() -> None:
    plan = draw(Order(hosts=500, shape=Shape.STAR))
    assert max(len(device) for w in plan.wires for _, device, _ in w.ends) <= 15


def test_a_denied_pair_is_no_neighbour_and_everybody_else_is() -> None:
    plan = draw(Order(hosts=5, deny=(("h5", "h1"),)))
    assert len(plan.wires) == 9
    assert "h5" not in {h.name for h in plan.neighbours(plan.host("h1"))}
    assert plan.host("h5").underlay not in plan.targets(plan.host("h1"))
    with pytest.raises(OperatorError, match="not neighbours"):
        plan.wire("h1", "h5")
    assert plan.wire("h5", "h2").joins("h2", "h5")


def test_targets_are_few_in_a_mesh_and_all_neighbours_elsewhere() -> None:
    mesh = draw(Order(hosts=6))
    assert mesh.targets(mesh.host("h6")) == ("172.31.0.1", "172.31.0.2", "172.31.0.3")
    assert all(0 < len(mesh.targets(h)) <= MESH_TARGETS for h in mesh.hosts)
    star = draw(Order(hosts=6, shape=Shape.STAR))
    assert len(star.targets(star.host("h1"))) == 5
    assert star.targets(star.host("h4")) == ("172.31.0.1",)


@pytest.mark.parametrize("shape", list(Shape))
@pytest.mark.parametrize("hosts", [1, 2, 3, 7])
def test_targets_only_ever_lie_across_a_wire(shape: Shape, hosts: int) -> None:
    plan = draw(Order(hosts=hosts, shape=shape))
    for host in plan.hosts:
        reachable = {far.underlay for w in plan.wires for here, _, far in w.ends if here == host}
        assert set(plan.targets(host)) <= reachable


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (Order(hosts=0), "0 hosts"),
        (Order(hosts=501), "501 hosts"),
        (Order(pods=-1), "-1 pods"),
        (Order(pods=201), "201 pods"),
        (Order(mtu=1279), "1280"),
        (Order(name="Lab"), "cannot name a lab"),
        (Order(name="a-b"), "cannot name a lab"),
        (Order(name=""), "cannot name a lab"),
        (Order(name="twelveletter"), "cannot name a lab"),
        (Order(name="lab\n"), "cannot name a lab"),
        (Order(hosts=3, deny=(("h1", "h9"),)), "no host 'h9'"),
        (Order(hosts=3, shape=Shape.CHAIN, deny=(("h1", "h2"),)), "falls apart: h2, h3"),
    ],
)
def test_what_cannot_be_built_is_refused_in_words(order: Order, words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        draw(order)


def test_a_ring_with_one_denied_pair_is_a_chain() -> None:
    assert pairs(draw(Order(hosts=3, shape=Shape.RING, deny=(("h1", "h3"),)))) == {"h1-h2", "h2-h3"}


@pytest.mark.parametrize("text", ["h1", "h1:h1", "h0:h1", "h1:h2:h3", "1:2", "", "h1:", "h1:h2\n"])
def test_a_denied_pair_is_two_hosts(text: str) -> None:
    with pytest.raises(OperatorError, match="h1:h5"):
        parse_deny(text)
    assert parse_deny("h2:h13") == ("h2", "h13")


@pytest.mark.parametrize(
    ("namespace", "ours"),
    [
        ("weaver-h1", True),
        ("weaver-h12-p3", True),
        ("weaver-h0", False),
        ("weaver-h1-p", False),
        ("weaver-h1-p1x", False),
        ("weaver", False),
        ("weaver2-h1", False),
        ("myweaver-h1", False),
        ("weaver-bench", False),
    ],
)
def test_only_names_this_lab_gives_are_ours_to_remove(namespace: str, ours: bool) -> None:
    assert owns_namespace("weaver", namespace) is ours


def test_a_good_name_passes_through() -> None:
    assert check_name("lab2") == "lab2"


def test_unknown_places_are_refused_with_what_there_is() -> None:
    plan = draw(Order(hosts=2))
    with pytest.raises(OperatorError, match="h1, h2"):
        plan.host("h3")
    with pytest.raises(OperatorError, match="no host or pod 'h1-p2'"):
        plan.place("h1-p2")
