"""The ring by itself: what may change a slice, and that order does not matter. ipam.md R1 to R8."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from ipam.address import Address, AddressRange
from ipam.ring import Ring
from ipam.shortened import SPARE
from ipam.slices import (
    EPOCH,
    RingId,
    Slice,
    decode_slice,
    encode_slice,
    next_epoch,
    sign_slice,
)
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.gossip.channel import Item
from mesh.names import PeerName
from tests.sim.gossipers import Room

RANGE = AddressRange.parse("10.32.0.0/24")
CLUSTER = bytes(range(16))
ID = RingId(CLUSTER, RANGE)
ONE, TWO, LIAR, THREE = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3, 4))
SOMEBODY = LIAR.name
T0 = Instant(0.0)


def seeded() -> Ring:
    """ONE's ring, halved between ONE and TWO."""
    ring = Ring(ONE, RANGE)
    ring.seed(CLUSTER, [ONE.name, TWO.name])
    return ring


def item(piece: Slice, ring: RingId = ID) -> Item:
    return Item(piece.key, piece.stamp, encode_slice(ring, piece))


def said(piece: Slice, by: Identity, ring: RingId = ID) -> Item:
    return item(sign_slice(ring, piece, by), ring)


def merged(ring: Ring, *items: Item) -> list[str]:
    """The reasons of what was refused."""
    before = dict(ring.slices)
    result = ring.merge(items, SOMEBODY, T0)
    if result.rejected:
        assert ring.slices == before, "what is refused changes nothing"
    return [rejected.reason for rejected in result.rejected]


def first(ring: Ring) -> Slice:
    return ring.slices[Address(RANGE.start)]


def second(ring: Ring) -> Slice:
    return ring.owned(TWO.name)[0]


def test_an_owner_gives_its_own() -> None:
    ring = seeded()
    theirs = second(ring)
    given = replace(theirs, owner=ONE.name, version=theirs.version + 1)
    assert merged(ring, said(given, TWO)) == []
    assert ring.owner_of(theirs.start) == ONE.name


def test_a_slice_nobody_signed() -> None:
    ring = seeded()
    theirs = second(ring)
    genuine = sign_slice(ID, replace(theirs, owner=ONE.name, version=2), TWO)
    broken = replace(genuine, signature=bytes(64))
    assert merged(ring, item(broken)) == ["bad-signature"]
    another = sign_slice(ID, replace(theirs, owner=LIAR.name, version=2), TWO)
    assert merged(ring, item(replace(another, owner=ONE.name))) == ["bad-signature"]


def test_the_next_version_is_its_owners_to_make() -> None:
    ring = seeded()
    theirs = second(ring)
    taken = replace(theirs, owner=LIAR.name, version=theirs.version + 1)
    assert merged(ring, said(taken, LIAR)) == ["slice-forged"]
    assert ring.conflicts[theirs.start].said.owner == LIAR.name
    assert merged(ring, said(replace(taken, takeover=True), LIAR)) == []


def test_what_is_ours_nobody_else_changes() -> None:
    ring = seeded()
    ours = first(ring)
    for version in (2, 3, 100):
        taken = replace(ours, owner=LIAR.name, version=version)
        assert merged(ring, said(taken, LIAR)) == ["slice-forged"]
    assert first(ring).owner == ONE.name


def test_one_version_with_two_contents() -> None:
    ring = seeded()
    theirs = second(ring)
    again = said(replace(theirs, owner=LIAR.name), TWO)
    assert merged(ring, again) in ([], ["version-reused"]), "the greater stamp counts"
    conflict = ring.conflicts[theirs.start]
    assert conflict.reason == "version-reused"
    assert {conflict.held.owner, conflict.said.owner} == {TWO.name, LIAR.name}
    assert (
        ring.owner_of(theirs.start)
        == max((theirs, conflict.said), key=lambda piece: piece.stamp).owner
    )


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (RingId(CLUSTER, AddressRange.parse("10.33.0.0/24")), "range-mismatch"),
        (RingId(bytes(16), RANGE), "cluster-mismatch"),
    ],
)
def test_another_ring(other: RingId, reason: str) -> None:
    ring = seeded()
    piece = replace(second(ring), owner=LIAR.name, version=2)
    assert merged(ring, said(piece, TWO, other)) == [reason]


def test_a_slice_outside_the_range() -> None:
    ring = seeded()
    outside = Slice(Address(RANGE.end), Address(RANGE.end + 8), LIAR.name, 1)
    assert merged(ring, said(outside, LIAR)) == ["slice-outside-range"]


def test_a_label_that_is_not_the_slices() -> None:
    ring = seeded()
    piece = sign_slice(ID, replace(second(ring), owner=ONE.name, version=2), TWO)
    wrong = Item(piece.key, piece.stamp + 1, encode_slice(ID, piece))
    assert merged(ring, wrong) == ["mislabelled"]


def test_octets_that_are_no_slice() -> None:
    ring = seeded()
    whole = encode_slice(ID, second(ring))
    for length in range(0, len(whole), 7):
        assert merged(ring, Item(second(ring).key, 1, whole[:length])) == ["malformed-message"]


def test_order_and_repetition_do_not_matter() -> None:
    """A history of donations there and back, heard in every order, twice."""
    one, two = seeded(), Ring(TWO, RANGE)
    for piece in list(one.slices.values()):
        two.merge([item(piece)], ONE.name, T0)
    history = []
    for giver, taker in ((one, two), (two, one), (one, two)):
        mine = max(giver.owned(giver.us), key=lambda s: s.size)
        middle = Address(mine.start + mine.size // 2)
        history += [changed := giver.give(middle, mine.end, taker.us)]
        taker.merge([item(piece) for piece in changed], giver.us, T0)
    assert one.slices == two.slices
    assert one.gaps() == []
    for order in permutations(history):
        third = Ring(LIAR, RANGE)
        for _ in range(2):
            for changed in order:
                third.merge([item(piece) for piece in changed], ONE.name, T0)
        third.merge([item(piece) for piece in one.slices.values()], ONE.name, T0)
        assert third.slices == one.slices


@pytest.mark.parametrize("proposal", range(12))
def test_of_two_rings_that_meet_both_learn_it(proposal: int) -> None:
    """protocol.md 6.5: whichever of two slices of one version has the greater stamp."""
    room = Room()
    rings = [Ring(ONE, RANGE), Ring(TWO, RANGE)]
    rings[0].seed(bytes([proposal]) * 16, [ONE.name])
    rings[1].seed(bytes([proposal + 100]) * 16, [TWO.name])
    one, two = (room.enter(number, ring) for number, ring in enumerate(rings, 1))
    room.link(one, two)
    room.run(120.0)
    for end in (one, two):
        assert {entry.reason for entry in end.quarantined} == {"cluster-mismatch"}
    assert [ring.owner_of(RANGE.start) for ring in rings] == [ONE.name, TWO.name]
    said = len(one.sent) + len(two.sent)
    room.run(600.0)
    assert len(one.sent) + len(two.sent) - said < 120, "they compare, and do not argue for ever"


def test_what_lies_behind_a_takeover_stays_ours() -> None:
    """R3: a takeover lies on the middle of a slice; when that is divided, its end is not lost."""
    ring = seeded()
    ours = first(ring)
    middle = Slice(Address(ours.start + 32), Address(ours.start + 64), TWO.name, EPOCH, True)
    assert merged(ring, said(middle, TWO)) == []
    assert [s.size for s in ring.owned(ONE.name)] == [32, ours.size - 64]
    ring.give(Address(ours.start + 16), Address(ours.start + 32), LIAR.name)
    assert [s.size for s in ring.owned(ONE.name)] == [16, ours.size - 64]
    assert ring.gaps() == []


def test_a_fenced_owner_stays_below_whatever_it_does() -> None:
    """R15: a hundred versions of the old epoch are less than one of the next."""
    ring = seeded()
    theirs = second(ring)
    taken = replace(theirs, owner=LIAR.name, version=next_epoch(theirs.version, LIAR.name))
    assert merged(ring, said(replace(taken, takeover=True), LIAR)) == []
    for version in (2, 3, 100):
        merged(ring, said(replace(theirs, version=version), TWO))
        assert ring.owner_of(theirs.start) == LIAR.name


# ---- R3 and R6: what was shorter before the whole of it came


def history(version: int) -> tuple[list[Item], Item, Item]:
    """(what ONE made of its half when it gave some to LIAR's neighbour, a lie about all of it, what
    ONE says to that lie)."""
    ring = seeded()
    half = first(ring)
    middle = Address(half.start + half.size // 2)
    divided = [item(piece) for piece in ring.give(middle, half.end, THREE.name)]
    lie = said(replace(half, owner=LIAR.name, version=version), LIAR)
    (answer,) = ring.reassert(replace(half, version=version))
    return divided, lie, item(answer)


def heard(by: Identity, *items: Item) -> Ring:
    ring = Ring(by, RANGE)
    ring.merge([item(piece) for piece in seeded().slices.values()], SOMEBODY, T0)
    for one in items:
        ring.merge([one], SOMEBODY, T0)
    return ring


def owners(ring: Ring) -> list[PeerName | None]:
    return [ring.owner_of(address) for address in range(RANGE.start, RANGE.end)]


def test_a_shorter_slice_that_comes_first_hides_nothing_of_a_longer_one() -> None:
    """R3: who heard the same has the same, in whatever order: the rest of it is nobody's."""
    divided, lie, answer = history(version=4)
    views = [owners(heard(TWO, *order)) for order in permutations([*divided, lie, answer])]
    assert all(view == views[0] for view in views)
    assert None in views[0]


def test_an_owner_is_told_what_lies_on_its_own_and_was_replaced_on_the_way() -> None:
    """R6: it never heard the lie, which nobody has any more; whoever refuses its slice shows it."""
    divided, lie, answer = history(version=3)
    misled, owner = heard(TWO, lie, answer), heard(THREE, *divided, answer)
    (given,) = [one for one in divided if ring_owner(one) == THREE.name]
    assert merged(misled, given) == ["slice-covered"]
    ((whom, piece),) = misled.shortened.take_unheard()
    assert whom == THREE.name
    assert merged(owner, item(piece)) == ["slice-forged"]
    (conflict,) = owner.conflicts.values()
    (back,) = owner.reassert(conflict.said)
    assert merged(misled, item(back)) == []
    assert owners(misled) == owners(owner)
    assert None not in owners(misled)


def test_nobody_is_told_for_a_slice_that_nobody_signed() -> None:
    divided, lie, answer = history(version=3)
    misled = heard(TWO, lie, answer)
    (given,) = [one for one in divided if ring_owner(one) == THREE.name]
    broken = replace(decode_slice(given.payload)[1], signature=bytes(64))
    assert merged(misled, item(broken)) == ["bad-signature"]
    assert misled.shortened.take_unheard() == []


def test_what_is_kept_to_show_is_bounded() -> None:
    ring = seeded()
    for version in range(2, 2 + 4 * SPARE):
        half = first(ring)
        ring.merge([said(replace(half, end=half.end, version=2 * version), ONE)], SOMEBODY, T0)
        ring.merge(
            [said(replace(half, end=Address(half.end - 1), version=2 * version + 1), ONE)],
            SOMEBODY,
            T0,
        )
    assert 1 <= len(ring.shortened._kept) <= 2 * SPARE + 2


def ring_owner(one: Item) -> PeerName:
    return decode_slice(one.payload)[1].owner


def test_an_owner_that_hears_a_lie_before_it_knows_what_it_owns_takes_it_back() -> None:
    """R6: the next version is its owner's to make, whichever of the two was heard first. Whoever
    refuses the lie shows the owner what it does not know."""
    ring = seeded()
    (half,) = [piece for piece in ring.slices.values() if piece.owner == TWO.name]
    others = [item(piece) for piece in ring.slices.values() if piece.owner != TWO.name]
    lie = said(replace(half, owner=THREE.name, version=2), LIAR)
    owner, witness = Ring(TWO, RANGE), heard(ONE)
    owner.merge([*others, lie], SOMEBODY, T0)
    assert owner.owner_of(half.start) == THREE.name
    assert merged(witness, lie) == ["slice-forged"]
    ((whom, piece),) = witness.shortened.take_unheard()
    assert whom == TWO.name
    assert merged(owner, item(piece)) == ["slice-forged"]
    (back,) = owner.regained()
    assert merged(witness, item(back)) == []
    assert owners(owner) == owners(witness)
    assert owner.owner_of(half.start) == TWO.name
    assert owner.regained() == []


def test_what_was_taken_over_is_not_taken_back_by_its_former_owner() -> None:
    """R15: an old slice that says it is ours proves nothing against a later epoch, nor against
    versions that we may have made and forgotten."""
    ring = seeded()
    (half,) = [piece for piece in ring.slices.values() if piece.owner == TWO.name]
    later = said(replace(half, owner=ONE.name, version=next_epoch(1, ONE.name), takeover=True), ONE)
    gone_on = said(replace(half, owner=ONE.name, version=3), ONE)
    for one in (later, gone_on):
        owner = Ring(TWO, RANGE)
        owner.merge([one], SOMEBODY, T0)
        assert merged(owner, item(half)) == []
        assert owner.regained() == []
