"""What gives the allocator space of its own accord: a seed, a reclaim. ipam.md R15."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Persist,
    Refused,
    SendTo,
    Stored,
    Surveyed,
)
from ipam.exclusions import Excluded, Exclusion, parse_exclusions
from ipam.messages import Message, MessageKind, decode
from ipam.requests import GATHER, PATIENCE
from ipam.returning import ALONE
from ipam.slices import Slice, encode_slice, sign_slice
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Arm
from mesh.gossip.channel import Item
from tests.store_twin import MemoryStore

RANGE = AddressRange.parse("10.32.0.0/24")
ONE, TWO = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
NOW = Instant(1.0)


def allocator(
    identity: Identity, electors: int = 3, exclusions: tuple[Exclusion, ...] = ()
) -> Allocator:
    return Allocator(
        identity,
        RANGE,
        Random(1),
        entropy_id=b"c" * 16,
        electors=electors,
        rest=PATIENCE - 1,
        takeover_rest=PATIENCE - 1,
        exclusions=exclusions,
    )


def key(n: int) -> AllocationKey:
    return AllocationKey(f"c{n}", "eth0")


def answers(effects: list[AllocatorEffect]) -> dict[int, Allocated | Refused]:
    return {
        e.request: e.result
        for e in effects
        if isinstance(e, Answer) and not isinstance(e.result, Surveyed)
    }


def test_a_seed_gives_space_at_once_and_serves_those_who_wait() -> None:
    """--seed on a host whose quorum is not there: nobody is elected, and nobody need be."""
    one = allocator(ONE)
    assert answers(one.allocate(1, key(1), NOW)) == {}
    effects = one.seed(2, (), NOW)
    given = answers(effects)
    assert isinstance(given[1], Allocated)
    assert given[1].address is not None
    assert given[2] == Allocated(None)
    assert isinstance(answers(one.allocate(3, key(3), NOW))[3], Allocated)
    durable = next(n for n, e in enumerate(effects) if isinstance(e, Persist))
    assert durable < next(n for n, e in enumerate(effects) if isinstance(e, Answer))
    assert answers(one.seed(4, (), NOW)) == {4: Refused("already-seeded")}


def test_what_is_reclaimed_serves_those_who_wait() -> None:
    one, two = allocator(ONE), allocator(TWO)
    two.seed(1, (), NOW)
    slices = two.ring.slices.values()
    one.ring.merge(
        [Item(piece.key, piece.stamp, two.ring.encoded(piece)) for piece in slices], TWO.name, NOW
    )
    one.peers({TWO.name: "two"}, NOW)
    one.allocate(1, key(1), NOW)
    assert answers(one.reclaim(2, TWO.name, NOW)) == {2: Refused("peer-alive")}
    one.peers({}, NOW)
    assert answers(one.reclaim(3, TWO.name, NOW)) == {3: Allocated(None)}
    rested = Instant(NOW + PATIENCE - 1)
    assert isinstance(answers(one.handle_timer(rested))[1], Allocated), "when it has rested"
    assert answers(one.reclaim(4, TWO.name, NOW)) == {4: Refused("owns-nothing")}


def told(source: Allocator, *others: Allocator) -> None:
    """The ring of one, as others hear it."""
    for other in others:
        other.ring.merge(source.ring.items(source.ring.digest()), source.us, NOW)
        other.channel_changed("ipam", NOW)


def saved(peer: Allocator, effects: list[AllocatorEffect]) -> list[AllocatorEffect]:
    """What a driver does first: all is durable."""
    for effect in effects:
        if isinstance(effect, Persist):
            peer.saved(effect.changes)
    return effects


def messages(effects: list[AllocatorEffect], peer: Allocator) -> list[bytes]:
    return [e.message for e in effects if isinstance(e, SendTo) and e.peer == peer.us]


def pair() -> tuple[Allocator, Allocator]:
    """Two that reach each other, of whom the first has the whole range."""
    one, two = allocator(ONE), allocator(TWO)
    saved(one, one.seed(1, (), NOW))
    told(one, two)
    one.peers({TWO.name: "two"}, NOW)
    two.peers({ONE.name: "one"}, NOW)
    return one, two


def test_a_clone_is_fenced() -> None:
    """R21: what it has stays, nothing new is given or given away."""
    one, two = pair()
    held = answers(one.allocate(2, key(2), NOW))[2]
    one.cloned(NOW)
    assert answers(one.allocate(3, key(2), NOW)) == {3: held}
    assert answers(one.allocate(4, key(4), NOW)) == {4: Refused("cloned-identity")}
    (asked,) = messages(two.allocate(5, key(5), NOW), one)
    (answer,) = messages(one.receive(TWO.name, asked, NOW), two)
    assert decode(answer).kind is MessageKind.DENIED


def test_a_certain_address_is_asked_of_its_owner() -> None:
    """R13: it gives just that, or says that it is in use."""
    one, two = pair()
    taken = answers(one.allocate(2, key(2), NOW))[2]
    assert isinstance(taken, Allocated)
    assert taken.address is not None
    wanted = RANGE.number("10.32.0.77")
    (asked,) = messages(two.claim(3, key(3), wanted, NOW), one)
    (given,) = messages(saved(one, one.receive(TWO.name, asked, NOW)), two)
    assert answers(two.receive(ONE.name, given, NOW)) == {3: Allocated(wanted)}
    assert two.space.size == 1
    (asked,) = messages(two.claim(4, key(4), taken.address, NOW), one)
    (denied,) = messages(one.receive(TWO.name, asked, NOW), two)
    assert answers(two.receive(ONE.name, denied, NOW)) == {4: Refused("address-in-use")}


def test_a_memory_that_is_old_gives_nothing_before_it_has_asked() -> None:
    """R17: restored from before it gave half away, a host learns of that first."""
    one, two = pair()
    old = Stored(
        one.ring.id.cluster if one.ring.id else None,
        None,
        tuple(one.ring.encoded(piece) for piece in one.ring.slices.values()),
    )
    (asked,) = messages(two.allocate(2, key(2), NOW), one)
    (given,) = messages(saved(one, one.receive(TWO.name, asked, NOW)), two)
    saved(two, two.receive(ONE.name, given, NOW))
    again = Allocator(ONE, RANGE, Random(2), entropy_id=b"c" * 16, stored=old)
    again.start(NOW)
    assert again.withheld == "verifying"
    assert answers(again.allocate(3, key(3), NOW)) == {}
    (asked,) = messages(again.peers({TWO.name: "two"}, NOW), two)
    (newer,) = messages(two.receive(ONE.name, asked, NOW), again)
    assert isinstance(answers(again.receive(TWO.name, newer, NOW))[3], Allocated)
    assert again.space.size + two.space.size == RANGE.size


def test_an_old_memory_alone_goes_on_after_a_while() -> None:
    """R17: nobody in reach: what it has is all there is to go by."""
    one, _ = pair()
    stored = Stored(
        one.ring.id.cluster if one.ring.id else None,
        None,
        tuple(one.ring.encoded(piece) for piece in one.ring.slices.values()),
    )
    again = Allocator(ONE, RANGE, Random(2), entropy_id=b"c" * 16, stored=stored)
    again.start(NOW)
    assert answers(again.allocate(1, key(1), NOW)) == {}
    late = Instant(NOW + ALONE)
    assert isinstance(answers(again.handle_timer(late))[1], Allocated)


def test_a_dispute_gives_nothing_and_is_ended_by_its_holder() -> None:
    """R7: one version made twice bars the range, until an operator says whose it is."""
    one, two = pair()
    start = one.ring.range.start
    held = one.ring.slices[start]
    assert one.ring.id is not None
    for said in (replace(held, owner=TWO.name), replace(held, end=Address(held.end - 1))):
        octets = encode_slice(one.ring.id, sign_slice(one.ring.id, said, ONE))
        one.ring.merge([Item(said.key, said.stamp, octets)], TWO.name, NOW)
        one.channel_changed("ipam", NOW)
    assert {c.reason for c in one.ring.conflicts.values()} == {"version-reused"}
    assert answers(one.allocate(2, key(2), NOW)) == {}, "it waits: the range is disputed"
    keeper = one if one.ring.owner_of(start) == ONE.name else two
    if keeper is one:
        assert answers(one.resolve(3, start, NOW)).get(3) == Allocated(None)
        assert not one.ring.conflicts
    else:
        assert answers(one.resolve(3, start, NOW)) == {3: Refused("not-our-space")}
    assert answers(two.resolve(4, start, NOW)) == {4: Refused("not-disputed")}


def test_what_is_not_durable_is_shown_to_nobody() -> None:
    """R20: a donor's digest says what its disk says, until the gift is written."""
    one, two = pair()
    before = dict(one.ring.digest())
    (asked,) = messages(two.allocate(2, key(2), NOW), one)
    effects = one.receive(TWO.name, asked, NOW)
    assert one.ring.digest() == before
    assert [i.stamp for i in one.ring.items(before)] == list(before.values())
    saved(one, effects)
    assert one.ring.digest() != before


def test_neighbours_of_one_owner_become_one_slice() -> None:
    """R9: space that comes back joins what it came from."""
    one, two = pair()
    for n in range(3):
        wanted = Address(RANGE.start + 77 + n)
        (asked,) = messages(two.claim(n, key(n), wanted, NOW), one)
        (given,) = messages(saved(one, one.receive(TWO.name, asked, NOW)), two)
        saved(two, two.receive(ONE.name, given, NOW))
    assert [(s.start, s.size) for s in two.ring.owned(TWO.name)] == [(RANGE.start + 77, 3)]


def test_what_nobody_is_known_to_own_is_taken_only_when_that_is_said() -> None:
    """R15: a gap may be a living peer's, of whom we have not heard."""
    one, _ = pair()
    gone = Identity.from_seed(b"g" * 32).name
    saved(one, one.reclaim(2, gone, NOW, force=True))
    cut = one.ring.slices.pop(RANGE.start)
    one.ring._parts.lay(cut.start, cut.end, [])
    assert answers(one.reclaim(3, gone, NOW, force=True)) == {3: Refused("owns-nothing")}
    half = Slice(RANGE.start, Address(RANGE.start + 128), ONE.name, 5)
    assert one.ring.id is not None
    said = sign_slice(one.ring.id, half, ONE)
    octets = encode_slice(one.ring.id, said)
    one.ring.merge([Item(said.key, said.stamp, octets)], TWO.name, NOW)
    assert one.ring.gaps()
    assert answers(one.reclaim(4, gone, NOW, force=True)) == {4: Refused("owns-nothing")}
    assert answers(one.reclaim(5, gone, NOW, force=True, gaps=True)) == {5: Allocated(None)}
    assert one.ring.gaps() == []


def test_what_was_taken_over_rests() -> None:
    """R16: whoever was not gone, or took it too, hears of it before anything of it is given."""
    _, two = pair()
    two.peers({}, NOW)
    assert answers(two.reclaim(2, ONE.name, NOW)) == {2: Allocated(None)}
    assert answers(two.allocate(3, key(3), NOW)) == {}
    assert answers(two.claim(4, key(4), Address(RANGE.start + 9), NOW)) == {
        4: Refused("address-resting")
    }


def test_what_is_excluded_is_given_by_force_alone() -> None:
    """R22: not as the next one, not when asked for; and not given on to others as if it were."""
    one = allocator(ONE, exclusions=parse_exclusions("10.32.0.1-10.32.0.4,10.32.0.128/25"))
    saved(one, one.seed(1, (), NOW))
    first = answers(one.allocate(2, key(2), NOW))[2]
    assert isinstance(first, Allocated)
    assert first.address == RANGE.number("10.32.0.5")
    wanted = RANGE.number("10.32.0.200")
    assert answers(one.claim(3, key(3), wanted, NOW)) == {3: Refused("address-excluded")}
    assert answers(one.claim(4, key(3), wanted, NOW, force=True)) == {4: Allocated(wanted)}
    assert answers(one.claim(5, key(3), wanted, NOW)) == {5: Allocated(wanted)}, "it has it"
    assert one.space.free_count() == 128 - 1 - 4 - 1
    one.free(6, key(3), NOW)
    later = Instant(NOW + 1000)
    given = [answers(one.allocate(n, key(n), later)).get(n) for n in range(7, 140)]
    found = [g.address for g in given if isinstance(g, Allocated)]
    assert len(found) == 122
    assert all(a is not None and one.space.excluded.end_of(a) is None for a in found)


def test_an_excluded_address_of_another_peer_is_asked_for_by_force() -> None:
    one, two = pair()
    two.space.excluded = Excluded(RANGE, parse_exclusions("10.32.0.77"))
    wanted = RANGE.number("10.32.0.77")
    asked = messages(two.claim(1, key(1), wanted, NOW, force=True), one)
    told_back = messages(saved(one, one.receive(TWO.name, asked[-1], NOW)), two)
    effects = saved(two, two.receive(ONE.name, told_back[-1], NOW))
    assert answers(effects) == {1: Allocated(wanted)}


def test_space_of_which_only_what_is_excluded_is_left_is_not_given_away() -> None:
    """R22: whoever asked would have nothing of it, and would ask for ever."""
    one = allocator(ONE, exclusions=parse_exclusions("10.32.0.8-10.32.0.255"))
    saved(one, one.seed(1, (), NOW))
    for n in range(2, 9):
        one.allocate(n, key(n), NOW)
    assert one.space.free_count() == 0
    assert one.space.spare_block(NOW) is None


def test_a_freed_address_rests_over_a_restart() -> None:
    """R14: the store says that it was freed, and whoever starts lets it rest."""
    one, disk = allocator(ONE), MemoryStore()
    effects = one.seed(1, (), NOW) + one.allocate(2, key(2), NOW) + one.free(3, key(2), NOW)
    for effect in effects:
        if isinstance(effect, Persist):
            disk.apply(effect)
    freed = Address(RANGE.start + 1)
    assert disk.stored().freed == (freed,)
    again = Allocator(ONE, RANGE, Random(1), entropy_id=bytes(16), stored=disk.stored(), rest=5)
    again.start(NOW, company=False)
    assert answers(again.allocate(1, key(1), NOW)) == {1: Allocated(Address(freed + 1))}
    assert again.space.rests(freed)


def test_a_certain_address_that_was_taken_over_rests_whoever_asks() -> None:
    """R16, R13: another peer's wish for it is denied meanwhile, and granted afterwards."""
    one, two = pair()
    gone = Identity.from_seed(b"g" * 32)
    address = Address(RANGE.start + 77)
    one.ring.give(address, Address(address + 8), gone.name)
    saved(one, one.reclaim(2, gone.name, NOW, force=True, rest=25.0))
    told(one, two)
    for later, kind in ((24.0, MessageKind.DENIED), (26.0, MessageKind.DONATE)):
        when = Instant(NOW + later)
        (asked,) = messages(two.claim(3, key(int(later)), address, NOW), one)
        (said,) = messages(saved(one, one.receive(TWO.name, asked, when)), two)
        assert decode(said).kind is kind
        two.receive(ONE.name, said, when)


def test_who_was_taken_over_by_mistake_has_its_containers_addresses_back_at_once() -> None:
    """R18: they rest for everybody else; a taker that has forgotten whose they were says nothing,
    for what is denied is lost."""
    one, two = pair()
    address = Address(RANGE.start + 77)
    one.ring.give(address, Address(address + 8), TWO.name)
    told(one, two)
    one.peers({}, NOW)
    saved(one, one.reclaim(2, TWO.name, NOW, force=True))
    number = (7).to_bytes(4, "big")
    want = b"\x08" + number + address.to_bytes(16, "big")
    forgetful = one.space._recent
    one.space._recent = [(*rest[:3], None) for rest in forgetful]
    assert messages(one.receive(TWO.name, want, NOW), two) == []
    one.space._recent = forgetful
    (said,) = messages(saved(one, one.receive(TWO.name, want, NOW)), two)
    assert decode(said).kind is MessageKind.DONATE


# ---- a memory that is old, and those who could say so

THREE = Identity.from_seed(b"\x03" * 32)


def memory(peer: Allocator) -> Stored:
    return Stored(
        peer.ring.id.cluster if peer.ring.id else None,
        None,
        tuple(peer.ring.encoded(piece) for piece in peer.ring.slices.values()),
    )


def asks_for(taker: Allocator, giver: Allocator, *wanted: int) -> None:
    """Certain addresses change hands; both hear all of it."""
    for address in wanted:
        (asked,) = messages(taker.claim(address, key(address), Address(address), NOW), giver)
        (given,) = messages(saved(giver, giver.receive(taker.us, asked, NOW)), taker)
        saved(taker, taker.receive(giver.us, given, NOW))
        taker.free(address, key(address), NOW)


def restored(old: Stored, *reachable: Allocator) -> Allocator:
    again = Allocator(ONE, RANGE, Random(2), entropy_id=b"c" * 16, stored=old)
    again.start(NOW)
    again.peers({peer.us: "" for peer in reachable}, NOW)
    return again


def is_told(again: Allocator, witness: Allocator, after: float = 2.0) -> list[AllocatorEffect]:
    """It asks a witness what is newer than its memory, and hears it."""
    (asked,) = messages(again.handle_timer(Instant(NOW + after)), witness)
    (newer,) = messages(witness.receive(again.us, asked, NOW), again)
    return again.receive(witness.us, newer, NOW)


def test_what_was_given_to_one_who_is_away_is_not_taken_back() -> None:
    """R17: a witness says what became of a slice; whom it names need not be there to be believed.
    What it got was divided since, so that nothing of it is in the giver's own hand any more."""
    one, two = pair()
    old = memory(one)
    third = allocator(THREE)
    one.ring.give(RANGE.start, Address(RANGE.start + 16), TWO.name)
    told(one, two, third)
    two.ring.give(RANGE.start, Address(RANGE.start + 4), THREE.name)
    told(two, third)
    again = restored(old, third)
    is_told(again, third)
    assert again.withheld is None
    for address in range(RANGE.start, RANGE.end):
        assert again.ring.owner_of(address) == third.ring.owner_of(address)
    assert again.ring.conflicts == {}


def test_neighbours_stay_apart_while_the_memory_of_them_is_in_question() -> None:
    """R9, R17: of two witnesses one has answered, who heard half of a donation. Were its end made
    one slice with what we remember, we would own again what the other was given."""
    one, two = pair()
    old = memory(one)
    third = allocator(THREE)
    told(one, third)
    middle = (Address(RANGE.start + 64), Address(RANGE.start + 128))
    _, _, end = one.ring.give(*middle, TWO.name)
    told(one, two)
    third.ring.merge([Item(end.key, end.stamp, one.ring.encoded(end))], ONE.name, NOW)
    again = restored(old, two, third)
    is_told(again, third)
    assert again.withheld == "verifying", "the other witness has not answered"
    is_told(again, two, after=4.0)
    assert again.withheld is None
    for address in range(RANGE.start, RANGE.end):
        assert again.ring.owner_of(address) == two.ring.owner_of(address)


def test_who_starts_is_told_what_it_owns_and_never_heard_of() -> None:
    """R17: its giver left while it was down. Until it knows, it cannot tell a lie about it."""
    one, two = pair()
    asks_for(two, one, *range(RANGE.start + 8, RANGE.start + 12))
    old = memory(two)
    (given,) = one.ring.give(Address(RANGE.start + 64), Address(RANGE.end), TWO.name)[-1:]
    third = allocator(THREE)
    told(one, third)
    third.peers({TWO.name: ""}, NOW)
    again = Allocator(TWO, RANGE, Random(2), entropy_id=b"c" * 16, stored=old)
    again.start(NOW)
    again.peers({THREE.name: ""}, NOW)
    assert again.ring.owner_of(given.start) == ONE.name
    is_told(again, third)
    assert again.ring.owner_of(given.start) == TWO.name
    assert again.ring.id is not None
    stolen = replace(given, owner=ONE.name, version=given.version + 1)
    lie = sign_slice(again.ring.id, stolen, THREE)
    octets = encode_slice(again.ring.id, lie)
    merged = again.ring.merge([Item(lie.key, lie.stamp, octets)], THREE.name, NOW)
    assert [r.reason for r in merged.rejected] == ["slice-forged"]


def test_what_one_says_is_ours_is_asked_of_those_who_answered_before() -> None:
    """R17: a witness with an old memory of its own tells of space that we had once; the one that
    knows where it went since had answered, before there was anything to ask."""
    one, two = pair()
    third = allocator(THREE)
    told(one, third)
    old = memory(two)
    gift = (Address(RANGE.start + 64), Address(RANGE.start + 128))
    one.ring.give(*gift, TWO.name)
    told(one, two, third)
    two.ring.give(*gift, ONE.name)
    told(two, one)
    again = Allocator(TWO, RANGE, Random(2), entropy_id=b"c" * 16, stored=old)
    again.start(NOW)
    again.peers({ONE.name: "", THREE.name: ""}, NOW)
    is_told(again, one)
    effects = is_told(again, third, after=4.0)
    assert again.ring.owner_of(gift[0]) == TWO.name, "so it was, in the memory of the third"
    assert again.withheld == "verifying"
    (asked,) = messages(effects, one)
    (newer,) = messages(one.receive(again.us, asked, NOW), again)
    effects = again.receive(one.us, newer, NOW)
    assert again.ring.owner_of(gift[0]) == ONE.name
    assert again.withheld is None


def test_a_question_under_way_is_not_asked_again_with_every_answer() -> None:
    """R17: of a hundred in reach each is asked once a second, not once for each of the others."""
    one, _ = pair()
    witnesses = [allocator(Identity.from_seed(bytes([n]) * 32)) for n in range(10, 40)]
    told(one, *witnesses)
    again = Allocator(ONE, RANGE, Random(2), entropy_id=b"c" * 16, stored=memory(one))
    asked = again.start(NOW) + again.peers({w.us: "" for w in witnesses}, NOW)
    for witness in witnesses:
        (question,) = messages(asked, witness)
        (newer,) = messages(witness.receive(ONE.name, question, NOW), again)
        assert again.withheld == "verifying"
        assert not [e for e in again.receive(witness.us, newer, NOW) if isinstance(e, SendTo)]
    assert again.withheld is None


# ---- nobody is woken for what nothing can be done about


def wakes(peer: Allocator, since: float, until: float) -> int:
    """Times that a driver would fire its timer, asked for as it asks."""
    count, now = 0, Instant(since)
    while now < until:
        (arm,) = [e for e in peer.handle_timer(now) if isinstance(e, Arm)]
        count += 1
        if arm.deadline is None:
            break
        now = Instant(max(now, arm.deadline))
    return count


def test_who_won_the_election_sleeps() -> None:
    one = allocator(ONE, electors=1)
    assert isinstance(answers(one.allocate(1, key(1), NOW))[1], Allocated)
    assert wakes(one, NOW + GATHER, NOW + 3600) == 1


def test_a_request_for_a_certain_address_looks_once_a_second_however_much_has_rested() -> None:
    """R13: its owner is away. What has rested here, and donors, are of no use to it."""
    one, two = pair()
    asks_for(two, one, *range(RANGE.start + 8, RANGE.start + 12))
    two.peers({}, NOW)
    two.allocate(0, key(0), NOW)
    late = Instant(NOW + PATIENCE)
    two.handle_timer(late)
    two.claim(1, key(1), Address(RANGE.start + 77), late)
    assert 1 <= wakes(two, late, late + PATIENCE - 0.5) <= PATIENCE


def test_a_memory_in_question_alone_is_looked_at_when_its_time_is_over() -> None:
    """R17: and by what peers come; who is called a clone waits for them alone."""
    one, _ = pair()
    again = Allocator(ONE, RANGE, Random(2), entropy_id=b"c" * 16, stored=memory(one))
    again.start(NOW)
    again.allocate(1, key(1), NOW)
    assert wakes(again, NOW + 1, NOW + ALONE) <= 2
    again.doubted(NOW)
    assert wakes(again, NOW + ALONE, NOW + PATIENCE - 1) <= 2
    assert again.withheld == "verifying"


def test_a_donor_whose_space_is_in_pieces_is_asked_until_nobody_waits() -> None:
    """R12: it gives one piece at a time; whoever waits for ten addresses does not wait ten rounds
    of a second each."""
    one, two = pair()
    for n in range(1, RANGE.size - 1):
        one.allocate(n, key(n), NOW)
    for n in range(2, RANGE.size - 1, 2):
        one.free(n, key(n), NOW)
    rested = Instant(NOW + PATIENCE)
    served: dict[int, Allocated | Refused] = {}
    effects: list[AllocatorEffect] = []
    for n in range(10):
        effects += two.allocate(n, key(n), rested)
    while asked := messages(effects, one):
        (given,) = messages(saved(one, one.receive(two.us, asked[-1], rested)), two)
        effects = two.receive(one.us, given, rested)
        served |= answers(effects)
    assert sum(isinstance(result, Allocated) for result in served.values()) == 10


def test_a_donor_that_gives_nothing_is_not_asked_again_at_once() -> None:
    """R12: a DONATE without a gift, or with an old one, is answered with patience."""
    one, two = pair()
    asked = messages(two.allocate(1, key(1), NOW) + two.allocate(2, key(2), NOW), one)
    number = decode(asked[-1]).number
    nothing = Message(MessageKind.DONATE, number).encode()
    assert messages(two.receive(one.us, nothing, NOW), one) == []
