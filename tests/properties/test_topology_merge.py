"""Topology as a replicated value: order, grouping and repetition change nothing."""

from __future__ import annotations

from random import Random
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import given

from mesh.clock import Instant
from mesh.gossip.channel import Item
from mesh.topology.topology import Topology
from tests.sim.views import edge, item, name, numbers_by_name, record, topology

US = 1
NOW = Instant(0.0)

stamps = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 2))


def made(stamped: tuple[int, int, int]) -> Item:
    """One content for each (peer, version, UID), as honest peers make them."""
    number, version, uid = stamped
    edges = [edge(other, version * 100) for other in range(1, 7) if other != number]
    return item(record(number, version, edges[: version + uid], uid=uid, short_id=10 * number))


items = st.lists(stamps.map(made), max_size=15)


def state(of: Topology) -> dict[bytes, tuple[int, bytes]]:
    return {i.key: (i.stamp, i.payload) for i in of.items(of.digest())}


def merged(batches: list[list[Item]]) -> Topology:
    view = topology(US, short_id=1)
    for batch in batches:
        outcome = view.merge(batch, name(99), NOW)
        assert outcome.rejected == ()
    return view


@given(items, st.randoms(use_true_random=False), st.integers(1, 5))
def test_merge_is_commutative_associative_and_idempotent(
    batch: list[Item], rng: Random, size: int
) -> None:
    """protocol.md 6.1: whatever order, grouping or repetition, the same state comes out."""
    shuffled = batch * 2
    rng.shuffle(shuffled)
    parts = [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
    whole = merged([batch])
    assert state(whole) == state(merged(parts))
    assert state(whole) == state(merged([batch, batch]))
    newest: dict[bytes, int] = {}
    for one in batch:
        newest[one.key] = max(one.stamp, newest.get(one.key, 0))
    assert {k: s for k, (s, _) in state(whole).items() if k != name(US).octets} == newest


@given(items, items)
def test_views_of_views_are_the_view(left: list[Item], right: list[Item]) -> None:
    """protocol.md 6.1: merging two peers' states is merging all they heard."""
    one, other = merged([left]), merged([right])
    theirs = [i for i in other.items(other.digest()) if i.key != name(US).octets]
    one.merge(theirs, name(99), NOW)
    assert state(one) == state(merged([left, right]))


@given(items, st.lists(st.tuples(st.integers(0, 14), st.integers(0, 10**6)), max_size=10))
def test_damaged_records_change_nothing(batch: list[Item], damages: list[tuple[int, int]]) -> None:
    """protocol.md 7.2: a view that also heard altered copies is the same view."""
    heard = list(batch)
    for place, where in damages:
        if place < len(batch):
            octets = bytearray(batch[place].payload)
            octets[where % len(octets)] ^= 0x10
            one = Item(batch[place].key, batch[place].stamp, bytes(octets))
            heard.insert(where % (len(heard) + 1), one)
    view = topology(US, short_id=1)
    view.merge(heard, name(99), NOW)
    assert state(view) == state(merged([batch]))
    assert all(of.is_genuine() for of in view.records.values())


@given(
    st.integers(2, 12),
    st.integers(1, 14),
    st.lists(st.integers(1, 3), min_size=12, max_size=12),
    st.integers(0, 2**16),
)
def test_peers_come_to_distinct_short_ids(
    count: int, last: int, hints: list[int], seed: int
) -> None:
    """protocol.md 7.5: whatever they began with; who has none lacks it for want of free ones."""
    rng = Random(seed)
    with patch("mesh.topology.short_id.LAST", max(last, 3)):
        views = [
            topology(number, seed=seed + number, short_id=hints[number])
            for number in numbers_by_name(count)
        ]
        for view in views:
            view.update(edges=(), now=NOW)
        for _ in range(6 * count):
            order = [(a, b) for a in views for b in views if a is not b]
            rng.shuffle(order)
            for here, there in order:
                here.merge(there.items([there.us.octets]), there.us, NOW)
                if here.is_update_due:
                    here.update(edges=(), now=NOW)
        ids = [view.own.short_id for view in views if view.own.short_id is not None]
        assert len(set(ids)) == len(ids) == min(count, max(last, 3))
        assert views[0].own.short_id == hints[numbers_by_name(count)[0]]
