"""When a measured round trip becomes the published cost of an edge."""

from __future__ import annotations

from random import Random

import pytest

from mesh.clock import Instant
from mesh.topology.published_cost import MAX_US, PublishedCost


@pytest.mark.parametrize(
    ("first", "then", "after", "published"),
    [
        (0.010, 0.020, 10.0, 20_000),
        (0.010, 0.020, 9.9, 10_000),
        (0.010, 0.0129, 10.0, 10_000),
        (0.010, 0.0131, 10.0, 13_100),
        (0.010, 0.0069, 10.0, 6_900),
        (0.010, 0.0071, 10.0, 10_000),
        (0.001, 0.0015, 10.0, 1_000),
        (0.001, 0.00151, 10.0, 1_510),
        (0.0001, 0.0005, 10.0, 100),
        (0.0001, 0.0007, 10.0, 700),
        (0.0, 0.0, 0.0, 1),
        (1e9, 1e9, 0.0, MAX_US),
    ],
)
def test_only_a_real_change_is_published(
    first: float, then: float, after: float, published: int
) -> None:
    """protocol.md 8.5: moved by more than 30 % and 500 µs, and at most every 10 s."""
    cost = PublishedCost()
    cost.update(first, Instant(50.0))
    assert cost.update(then, Instant(50.0 + after)) == published


def test_jitter_is_never_published() -> None:
    """protocol.md 8.5: an hour of a path that jitters by a quarter is one version."""
    cost, rng = PublishedCost(), Random(1)
    seen = {cost.update(0.02, Instant(0.0))}
    seen |= {cost.update(rng.uniform(0.015, 0.025), Instant(n)) for n in range(3600)}
    assert seen == {20_000}


def test_the_interval_counts_from_the_last_publication() -> None:
    """protocol.md 8.5: a path that swings is published every 10 s, no more."""
    cost = PublishedCost()
    seen = [cost.update(0.01 if n % 2 else 0.1, Instant(n)) for n in range(100)]
    changes = [n for n in range(1, 100) if seen[n] != seen[n - 1]]
    assert changes == [11, 22, 33, 44, 55, 66, 77, 88, 99]
