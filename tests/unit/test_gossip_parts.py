"""The parts of the gossip engine: digests, quarantine, surrogates."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.clock import Instant
from mesh.gossip.channel import Item, Rejected
from mesh.gossip.digest import BATCH_KEYS, difference, key_ranges, summary_hash
from mesh.gossip.quarantine import CAPACITY, MAX_REFUSED, Quarantine
from mesh.gossip.surrogate import MAX_ITEMS, Allowance, Surrogate
from mesh.wire.gossip import Keys
from tests.sim.views import name

digests = st.dictionaries(st.binary(max_size=3), st.integers(0, 5), max_size=12)
NOW = Instant(0.0)


def test_summary_hash_is_what_the_document_says() -> None:
    """protocol.md 6.4: exclusive or of the first 16 octets of SHA-256(stamp and key)."""
    one = bytes.fromhex("2ea6f34171d16d8c2d539a9c1d2c72bc")
    assert summary_hash({}) == bytes(16)
    assert summary_hash({b"k": 1}) == one
    assert summary_hash({b"k": 1, b"j": 2}) == bytes(
        a ^ b for a, b in zip(one, summary_hash({b"j": 2}), strict=True)
    )


@given(digests, digests)
def test_summary_hashes_are_equal_for_equal_digests_only(
    a: dict[bytes, int], b: dict[bytes, int]
) -> None:
    assert (summary_hash(a) == summary_hash(b)) == (a == b)
    assert summary_hash(dict(reversed(a.items()))) == summary_hash(a)


@given(digests, digests)
def test_difference_against_the_slow_way(ours: dict[bytes, int], theirs: dict[bytes, int]) -> None:
    """protocol.md 6.4: KEYS speaks for its range; what is newer on a side is found there."""
    ordered = sorted(theirs.items())
    half = ordered[len(ordered) // 2][0] if ordered else b""
    parts = [
        Keys("c", b"", half, tuple(p for p in ordered if p[0] < half)),
        Keys("c", half, b"", tuple(p for p in ordered if p[0] >= half)),
    ]
    if not half:
        parts = [Keys("c", b"", b"", tuple(ordered))]
    newer, wanted = set(), set()
    for part in parts:
        some_newer, some_wanted = difference(ours, part)
        newer |= set(some_newer)
        wanted |= set(some_wanted)
    assert newer == {k for k in ours if theirs.get(k, -1) < ours[k]}
    assert wanted == {k for k in theirs if ours.get(k, -1) < theirs[k]}


def test_the_key_lists_of_an_answer_span_every_key() -> None:
    """protocol.md 6.4: bounded messages, whose ranges leave nothing out."""
    digest = {n.to_bytes(4, "big"): n for n in range(2 * BATCH_KEYS + 10)}
    parts = key_ranges("c", digest)
    assert [len(part.stamps) for part in parts] == [BATCH_KEYS, BATCH_KEYS, 10]
    assert parts[0].low == parts[-1].high == b""
    assert [p.high for p in parts[:-1]] == [p.low for p in parts[1:]]
    for part in parts:
        assert difference(digest, part) == ([], [])
    assert key_ranges("c", {}) == [Keys("c", b"", b"", ())]


def test_quarantine_is_bounded_and_counts_for_ever() -> None:
    """protocol.md 6.5: the latest 64 are remembered, all are counted."""
    quarantine = Quarantine()
    for n in range(2 * MAX_REFUSED):
        quarantine.refuse("c", [(Rejected(b"%d" % n, "bad"), n)], name(1))
    assert quarantine.counts("c") == {"bad": 2 * MAX_REFUSED}
    entries = quarantine.entries("c")
    assert len(entries) == CAPACITY
    assert entries[-1].key == b"%d" % (2 * MAX_REFUSED - 1)
    assert len(quarantine._refused) == MAX_REFUSED


def test_who_repeats_itself_fills_one_place() -> None:
    """protocol.md 6.5: one entry with a count; another peer's refusal stays beside it."""
    quarantine = Quarantine()
    quarantine.refuse("c", [(Rejected(b"other", "bad"), 1)], name(2))
    for stamp in range(1000):
        told = quarantine.refuse("c", [(Rejected(b"k", "bad", "why"), stamp)], name(1))
        assert [entry.count for entry in told] == [1]
    assert [(e.key, e.count, e.detail) for e in quarantine.entries("c")] == [
        (b"other", 1, ""),
        (b"k", 1000, "why"),
    ]
    assert quarantine.entries("d") == ()
    assert quarantine.counts("d") == {}


def test_one_message_tells_each_reason_once() -> None:
    quarantine = Quarantine()
    many = [(Rejected(b"%d" % n, "odd" if n % 2 else "even"), 0) for n in range(10)]
    told = quarantine.refuse("c", many, name(1))
    assert [(entry.reason, entry.count) for entry in told] == [("even", 5), ("odd", 5)]


def test_refusals_are_forgiven_per_peer() -> None:
    quarantine = Quarantine()
    for peer in (1, 2):
        quarantine.refuse("c", [(Rejected(b"k", "bad"), 7)], name(peer))
    assert quarantine.is_refused(name(1), "c", b"k", 7)
    assert not quarantine.is_refused(name(1), "c", b"k", 8)
    quarantine.forgive(name(1))
    assert not quarantine.is_refused(name(1), "c", b"k", 7)
    assert quarantine.is_refused(name(2), "c", b"k", 7)


def test_surrogates_share_one_allowance() -> None:
    """protocol.md 6.6: 10,000 items and 16 MiB for all; what is there can still be renewed."""
    allowance = Allowance(items=2, octets=100)
    one, other = Surrogate("one", allowance), Surrogate("other", allowance)
    assert one.merge([Item(b"a", 1, bytes(40))], name(1), NOW).news == (b"a",)
    assert other.merge([Item(b"b", 1, bytes(40))], name(1), NOW).news == (b"b",)
    full = other.merge([Item(b"c", 1, b"")], name(1), NOW)
    assert [(r.key, r.reason) for r in full.rejected] == [(b"c", "surrogate-full")]
    assert one.merge([Item(b"a", 2, bytes(10))], name(1), NOW).news == (b"a",)
    big = other.merge([Item(b"b", 2, bytes(90))], name(1), NOW)
    assert [r.reason for r in big.rejected] == ["surrogate-full"]
    assert other.merge([Item(b"b", 2, bytes(60))], name(1), NOW).news == (b"b",)
    assert other.digest() == {b"b": 2}
    assert (allowance.items, allowance.octets) == (0, 100 - 11 - 61)


def test_a_surrogate_stops_at_its_bound() -> None:
    surrogate = Surrogate("junk", Allowance())
    for n in range(MAX_ITEMS + 10):
        surrogate.merge([Item(b"%d" % n, 1, b"x")], name(1), NOW)
    assert len(surrogate.digest()) == MAX_ITEMS


@given(
    st.lists(st.tuples(st.binary(max_size=1), st.integers(0, 9)), max_size=20),
    st.permutations(range(20)),
)
def test_a_surrogate_merges_in_any_order(
    stamped: list[tuple[bytes, int]], order: list[int]
) -> None:
    """protocol.md 6.1: commutative and idempotent."""
    items = [Item(key, stamp, key + bytes([stamp])) for key, stamp in stamped]
    one, other = Surrogate("s", Allowance()), Surrogate("s", Allowance())
    one.merge(items, name(1), NOW)
    for place in order:
        other.merge(items[place : place + 1] * 2, name(2), NOW)
    assert one.digest() == other.digest()
    assert one.items(one.digest()) == [other.items([key])[0] for key in one.digest()]
