"""Branches of broadcast trees outlive their trees by a while. docs/protocol.md 8.4."""

from __future__ import annotations

from mesh.clock import Instant
from mesh.names import ShortID
from mesh.router.branches import HOLD, Branches

A, B, C, D = (ShortID(n) for n in range(1, 5))
ALL = frozenset({A, B, C, D})


def test_a_child_that_is_no_longer_wanted_is_served_a_while_longer() -> None:
    branches = Branches()
    assert branches.serve({A: (B, C)}, ALL, Instant(0.0)) == {A: (B, C)}
    assert branches.due is None
    assert branches.serve({A: (D,)}, ALL, Instant(1.0)) == {A: (D, B, C)}
    assert branches.due == 1.0 + HOLD
    assert branches.serve({A: (D,)}, ALL, Instant(1.0 + HOLD)) == {A: (D,)}
    assert branches.due is None


def test_a_tree_that_is_gone_is_served_a_while_longer() -> None:
    branches = Branches()
    branches.serve({A: (B,), C: (D,)}, ALL, Instant(0.0))
    assert branches.serve({C: (D,)}, ALL, Instant(0.5)) == {A: (B,), C: (D,)}
    assert branches.serve({C: (D,)}, ALL, Instant(0.5 + HOLD)) == {C: (D,)}


def test_a_child_that_comes_back_is_wanted_like_any_other() -> None:
    branches = Branches()
    branches.serve({A: (B,)}, ALL, Instant(0.0))
    branches.serve({A: (C,)}, ALL, Instant(0.1))
    assert branches.serve({A: (B, C)}, ALL, Instant(0.2)) == {A: (B, C)}
    assert branches.due is None
    branches.serve({A: (C,)}, ALL, Instant(0.9))
    assert branches.due == 0.9 + HOLD, "the time begins anew"


def test_nobody_is_served_who_is_not_known() -> None:
    """The worker is never told of a peer that it has no keys for."""
    branches = Branches()
    branches.serve({A: (B, C), B: (C,)}, ALL, Instant(0.0))
    assert branches.serve({A: (D,)}, {A, C, D}, Instant(0.1)) == {A: (D, C)}
    branches.clear()
    assert branches.serve({}, ALL, Instant(0.2)) == {}
