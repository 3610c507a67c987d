"""What is made of nodes: addresses, who is gone, and whose turn it is to take their space."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.connection.maker import Target
from weaver.kubernetes.nodes import Node, gone, leads, reduce, remembered, targets

A, B, C = (f"{c}:" * 7 + c for c in ("aa", "bb", "cc"))


def node(peer: str = "", *addresses: str, told: bool = False) -> Node:
    return Node(addresses, peer, told)


def test_a_node_is_reduced_to_what_a_mesh_needs() -> None:
    thing: dict[str, Any] = {
        "metadata": {"name": "n", "annotations": {"weaver/peer": A, "other": "x"}},
        "status": {
            "addresses": [
                {"type": "ExternalIP", "address": "203.0.113.9"},
                {"type": "Hostname", "address": "n.example.net"},
                {"type": "InternalIP", "address": "10.0.0.9"},
                {"type": "InternalIP", "address": "not an address"},
                {"type": "InternalIP", "address": "fd00::9"},
            ],
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "NetworkUnavailable", "status": "False", "reason": "WeaverIsUp"},
            ],
        },
    }
    assert reduce(thing) == node(A, "10.0.0.9", "fd00::9", told=True)
    thing["status"]["conditions"][1]["reason"] = "SomebodyElseIs"
    assert not reduce(thing).is_told
    assert reduce({"metadata": {"name": "new"}}) == node()
    for nonsense in ("", "zz", "aa:bb", 7, A + A):
        annotated = {"metadata": {"annotations": {"weaver/peer": nonsense}}}
        assert reduce(annotated).peer == ""


@pytest.mark.parametrize(
    "status", [7, {"addresses": [7]}, {"addresses": [{}]}, {"addresses": 7}, {"conditions": [7]}]
)
def test_what_is_no_node_is_an_error_that_following_knows(status: object) -> None:
    with pytest.raises((TypeError, KeyError, AttributeError)):
        reduce({"metadata": {"name": "n"}, "status": status})


def test_everybody_but_ourselves_is_a_target() -> None:
    nodes = {"us": node(A, "10.0.0.1"), "b": node("", "10.0.0.2", "fd00::2"), "c": node(C)}
    assert targets(nodes, "us", 6783) == {Target("10.0.0.2", 6783)}


def test_who_is_gone() -> None:
    nodes = {"a": node(A), "b": node(B)}
    known = remembered({}, nodes)
    assert known == {A: "a", B: "b"}
    assert gone(known, nodes) == []
    assert gone(known, {"a": node(A)}) == [B]
    assert gone(known, {"a": node(A), "b": node()}) == []  # made anew, and silent as yet
    assert gone(known, {"a": node(A), "b": node(C)}) == [B]  # made anew, and somebody else
    assert gone(known, {"a": node(A), "renamed": node(B)}) == []
    assert gone(known, {}) == [A, B]


def test_one_takes_over_and_nobody_who_is_not_listed() -> None:
    nodes = {"a": node(B), "b": node(A), "c": node()}
    assert [leads(peer, nodes) for peer in (A, B, C)] == [True, False, False]
    assert not leads(A, {})
    assert not leads(A, {"b": node(B)})
