"""Several ranges on one mesh: one channel for all, and nothing said of one touches another."""

from __future__ import annotations

import pytest

from ipam.address import AddressRange
from ipam.by_range import FOREIGN, HEAD_SIZE, MAX_RANGES, ByRange, check_ranges, unwrap, wrap
from ipam.ring import Ring
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.errors import MalformedMessageError, OperatorError
from mesh.gossip.channel import Item, Rejected

FOUR, SIX = AddressRange.parse("10.32.0.0/24"), AddressRange.parse("fd00:32::/64")
ONE, TWO = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
NOW = Instant(1.0)


def rings(identity: Identity, *ranges: AddressRange) -> tuple[ByRange, dict[AddressRange, Ring]]:
    channel, made = ByRange("ipam"), {range: Ring(identity, range) for range in ranges}
    for range, ring in made.items():
        channel.add(range, ring)
    return channel, made


def seeded(ring: Ring, cluster: bytes = b"c" * 16) -> None:
    for piece in ring.seed(cluster, [ONE.name]):
        ring.saved(piece.start, ring.encoded(piece))


@pytest.mark.parametrize("order", [(FOUR, SIX), (SIX, FOUR)])
def test_peers_that_have_their_ranges_in_another_order_share_each(
    order: tuple[AddressRange, ...],
) -> None:
    """docs/ipam.md R24"""
    ours, mine = rings(ONE, FOUR, SIX)
    theirs, other = rings(TWO, *order)
    seeded(mine[FOUR], b"4" * 16)
    seeded(mine[SIX], b"6" * 16)
    digest = ours.digest()
    assert len(digest) == 2
    merged = theirs.merge(ours.items(digest), ONE.name, NOW)
    assert (set(merged.news), merged.rejected) == (set(digest), ())
    assert theirs.digest() == digest
    for range in (FOUR, SIX):
        assert other[range].slices == mine[range].slices
    assert other[SIX].owner_of(SIX.start) == ONE.name


def test_what_is_about_a_range_that_is_not_here_is_refused_and_the_rest_taken() -> None:
    ours, mine = rings(ONE, FOUR, SIX)
    theirs, other = rings(TWO, FOUR)
    for ring in mine.values():
        seeded(ring)
    merged = theirs.merge(ours.items(ours.digest()), ONE.name, NOW)
    assert [key[:HEAD_SIZE] for key in merged.news] == [FOUR.head()]
    assert [(r.key[:HEAD_SIZE], r.reason) for r in merged.rejected] == [(SIX.head(), FOREIGN)]
    assert other[FOUR].is_seeded


def test_a_slice_under_the_head_of_another_range_is_refused() -> None:
    ours, mine = rings(ONE, FOUR, SIX)
    theirs, other = rings(TWO, FOUR, SIX)
    seeded(mine[FOUR])
    (item,) = ours.items(ours.digest())
    forged = Item(SIX.head() + item.key[HEAD_SIZE:], item.stamp, item.payload)
    merged = theirs.merge([forged], ONE.name, NOW)
    assert merged.rejected == (Rejected(forged.key, "range-mismatch"),)
    assert not any(ring.is_seeded for ring in other.values())
    assert theirs.merge([item], ONE.name, NOW).news == (item.key,)


@pytest.mark.parametrize("key", [b"", b"x", FOUR.head()[:-1], FOUR.head(), bytes(34)])
def test_keys_that_nobody_makes(key: bytes) -> None:
    ours, mine = rings(ONE, FOUR)
    seeded(mine[FOUR])
    before = dict(ours.digest())
    merged = ours.merge([Item(key, 1, b"")], TWO.name, NOW)
    assert [r.key for r in merged.rejected] == [key]
    assert ours.items([key]) == []
    assert ours.digest() == before


def test_messages_say_their_range() -> None:
    """protocol.md 12.2"""
    assert unwrap(wrap(SIX, b"abc")) == (SIX.head(), b"abc")
    with pytest.raises(MalformedMessageError):
        unwrap(SIX.head()[:-1])


@pytest.mark.parametrize(
    "texts",
    [
        ["10.32.0.0/12", "10.32.0.0/12"],
        ["10.32.0.0/12", "fd00::/64", "10.40.0.0/16"],
        ["10.40.0.0/16", "10.32.0.0/12"],
        [f"10.{n}.0.0/16" for n in range(MAX_RANGES + 1)],
    ],
    ids=["twice", "inside", "around", "too many"],
)
def test_ranges_that_cannot_be_together(texts: list[str]) -> None:
    with pytest.raises(OperatorError) as caught:
        check_ranges([AddressRange.parse(text) for text in texts])
    assert caught.value.reason == "bad-range"
    check_ranges([FOUR, SIX])
