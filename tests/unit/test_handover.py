"""Leaving: nothing is forgotten before somebody has it durably. protocol.md 12.2, ipam.md R19."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Left,
    Persist,
    Publish,
    Refused,
    SendTo,
    Surveyed,
)
from ipam.messages import Message, MessageKind, decode
from ipam.overlay import Parts
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Notify
from mesh.names import PeerName

RANGE = AddressRange.parse("10.32.0.0/24")
OTHER_RANGE = AddressRange.parse("10.48.0.0/24")


class Room:
    """Allocators that hear each other at once, but for what ``loses`` swallows."""

    def __init__(self, count: int, seed: int = 1, *, foreign: int = 0) -> None:
        self.now = Instant(1.0)
        self.peers: dict[PeerName, Allocator] = {}
        for n in range(count + foreign):
            identity = Identity.from_seed(bytes([n + 1]) * 32)
            self.peers[identity.name] = Allocator(
                identity,
                RANGE if n < count else OTHER_RANGE,
                Random(seed + n),
                entropy_id=bytes([n + 1]) * 16,
            )
        self.names = list(self.peers)
        self.reach: dict[PeerName, dict[PeerName, str]] = {n: {} for n in self.names}
        self.left: dict[PeerName, PeerName | None] = {}
        self.answers: list[Allocated | Refused | Surveyed] = []
        self.unwritten: set[PeerName] = set()
        """Peers whose disk is full: what rests on a write is not said, nor anything after it."""
        self.dirty: set[PeerName] = set()
        self.loses: Callable[[PeerName, PeerName, MessageKind], bool] = lambda *_: False
        self.perform(self.names[0], self.peers[self.names[0]].seed(1, (), self.now))
        self.meet(self.names)

    def meet(self, names: list[PeerName]) -> None:
        """These reach each other, and nobody else does anybody."""
        self.reach = {n: dict.fromkeys(set(names) - {n}, "") if n in names else {}
                      for n in self.names}  # fmt: skip
        for name in self.names:
            self.perform(name, self.peers[name].peers(self.reach[name], self.now))
            self.gossip(name, tuple(self.peers[name].ring.digest()))

    def gossip(self, source: PeerName, keys: tuple[bytes, ...]) -> None:
        items = self.peers[source].ring.items(keys)
        for name in self.reach[source]:
            self.peers[name].ring.merge(items, source, self.now)
            self.perform(name, self.peers[name].channel_changed("ipam", self.now))

    def perform(self, name: PeerName, effects: list[AllocatorEffect]) -> None:
        if name in self.unwritten and any(isinstance(e, Persist) for e in effects):
            self.dirty.add(name)
        if name in self.dirty:
            return
        for effect in effects:
            match effect:
                case Persist(changes):
                    self.peers[name].saved(changes)
                case SendTo(peer, octets):
                    lost = self.loses(name, peer, decode(octets).kind)
                    if peer in self.reach[name] and not lost:
                        there = self.peers[peer]
                        self.perform(peer, there.receive(name, octets, self.now))
                case Publish("ipam", keys):
                    self.gossip(name, keys)
                case Notify(Left(heir)):
                    self.left[name] = heir
                case Answer(_, result):
                    self.answers.append(result)
                case _:
                    continue

    def leave(self, name: PeerName) -> None:
        self.perform(name, self.peers[name].leave(self.now))

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.5)):
            self.now = Instant(self.now + 0.5)
            for name in self.names:
                self.perform(name, self.peers[name].handle_timer(self.now))

    def owner(self, seen_by: PeerName) -> set[PeerName]:
        return set(self.peers[seen_by].ring.shares())


def test_everything_goes_to_a_peer_that_says_it_has_it() -> None:
    room = Room(2)
    one, two = room.names
    room.leave(one)
    assert room.left == {one: two}
    assert room.peers[one].leaving.has_left
    assert room.peers[two].space.size == RANGE.size
    assert room.peers[two].ring.gaps() == []


@pytest.mark.parametrize("seed", range(8))
def test_a_heir_of_another_range_is_none(seed: int) -> None:
    """It would say yes to what it throws away."""
    room = Room(2, seed, foreign=1)
    one, two, _foreigner = room.names
    room.leave(one)
    room.run(20.0)
    assert room.left == {one: two}
    assert room.owner(two) == {two}


def test_with_foreigners_only_there_is_nobody() -> None:
    room = Room(1, foreign=1)
    one, foreigner = room.names
    room.leave(one)
    room.run(5.0)
    assert room.left == {one: None}
    assert not room.peers[one].leaving.has_left
    assert room.owner(one) == {one}, "not given to somebody who cannot have it"
    assert room.owner(foreigner) == set()


@pytest.mark.parametrize("seed", range(8))
def test_a_peer_whose_disk_is_full_is_no_heir(seed: int) -> None:
    room = Room(3, seed)
    one, two, three = room.names
    room.unwritten = {two}
    room.peers[two].ring.slices.clear()
    room.peers[two].ring._parts = Parts()  # the offer is news to it, and news are to be written
    room.leave(one)
    room.run(20.0)
    assert room.left == {one: three}
    assert room.owner(three) == {three}


def test_a_heir_that_goes_away_before_it_was_given_anything() -> None:
    room = Room(2)
    one, two = room.names
    room.loses = lambda src, dst, kind: kind is MessageKind.HANDOVER
    room.leave(one)
    room.meet([one])
    room.run(30.0)
    assert one not in room.left, "nobody has it"
    assert room.owner(one) == {one}
    room.loses = lambda *_: False
    room.meet([one, two])
    room.run(2.0)
    assert room.left == {one: two}


def test_a_heir_that_goes_away_when_it_was_given_all_but_did_not_say_so() -> None:
    """With nobody else there it is waited for, and has all when it returns."""
    room = Room(2)
    one, two = room.names
    heard = 0

    def loses(src: PeerName, dst: PeerName, kind: MessageKind) -> bool:
        nonlocal heard
        heard += kind is MessageKind.HANDOVER
        return heard > 1

    room.loses = loses
    room.leave(one)
    room.meet([one])
    room.run(30.0)
    assert one not in room.left
    assert not room.peers[one].leaving.has_left
    room.loses = lambda *_: False
    room.meet([one, two])
    room.run(2.0)
    assert room.left == {one: two}
    assert room.peers[two].space.size == RANGE.size


@pytest.mark.parametrize("seed", range(6))
def test_a_third_peer_keeps_what_a_silent_heir_was_given(seed: int) -> None:
    """The heir hears of it when it returns; what it never hears of is reclaimed."""
    room = Room(3, seed)
    one, *others = room.names
    silent: set[PeerName] = set()

    def loses(src: PeerName, dst: PeerName, kind: MessageKind) -> bool:
        if kind is MessageKind.ACK and not silent:
            silent.add(src)  # it has said yes to the offer, and is not heard again
            return False
        return bool(silent & {src, dst})

    room.loses = loses
    room.leave(one)
    room.run(10.0)
    (heir,) = silent
    (witness,) = set(others) - silent
    assert room.left == {one: heir}
    assert room.owner(witness) == {heir}
    assert room.peers[witness].ring.gaps() == []


def test_a_slow_peer_answers_late_and_is_believed() -> None:
    room = Room(2)
    one, two = room.names
    late: list[bytes] = []
    slow = True
    receive = room.peers[one].receive

    def later(src: PeerName, data: bytes, now: Instant) -> list[AllocatorEffect]:
        if slow:
            late.append(data)
            return []
        return receive(src, data, now)

    room.peers[one].receive = later  # type: ignore[method-assign]  # a link that is slow
    room.leave(one)
    room.run(3.0)
    assert late
    slow = False
    room.perform(one, receive(two, late[0], room.now))
    assert room.left == {one: two}
    for data in late:
        room.perform(one, receive(two, data, room.now))
    assert room.left == {one: two}


def test_others_out_of_reach_are_waited_for() -> None:
    room = Room(2)
    one, two = room.names
    room.perform(two, room.peers[two].allocate(9, AllocationKey("c", "eth0"), room.now))
    assert room.owner(one) == {one, two}
    room.meet([one])
    room.leave(one)
    room.run(30.0)
    assert one not in room.left
    room.meet([one, two])
    room.run(2.0)
    assert room.left == {one: two}
    assert room.owner(two) == {two}


@pytest.mark.parametrize("seed", range(12))
def test_two_that_leave_at_once_leave_nothing_behind(seed: int) -> None:
    room = Room(3, seed)
    one, two, three = room.names
    room.loses = lambda src, dst, kind: kind is MessageKind.ACK and Random(room.now).random() < 0.4
    room.perform(two, room.peers[two].allocate(9, AllocationKey("c", "eth0"), room.now))
    room.perform(two, room.peers[two].free(10, AllocationKey("c", "eth0"), room.now))
    assert room.owner(one) == {one, two}
    room.leave(one)
    room.leave(two)
    room.run(60.0)
    assert set(room.left) == {one, two}
    assert room.owner(three) == {three}
    assert room.peers[three].ring.gaps() == []


def test_whoever_leaves_takes_no_offer_but_answers_for_what_it_was_given() -> None:
    room = Room(3)
    one, two, _ = room.names
    room.loses = lambda *_: True
    room.leave(one)
    there, ring = room.peers[one], room.peers[one].ring
    (offered,) = ring.owned(one)

    def answer() -> MessageKind:
        message = Message(MessageKind.HANDOVER, 7, (ring.encoded(offered),))
        said = there.receive(two, message.encode(), room.now)
        return next(decode(e.message).kind for e in said if isinstance(e, SendTo))

    assert answer() is MessageKind.ACK, "it is its own"
    room.perform(one, there.stay(room.now))
    _, offered = ring.give(ring.range.number("10.32.0.128"), offered.end, two)
    room.leave(one)
    assert answer() is MessageKind.DENIED
    room.perform(one, there.stay(room.now))
    assert answer() is MessageKind.ACK


def test_the_last_one_leaves_alone() -> None:
    room = Room(2)
    one, two = room.names
    room.loses = lambda src, dst, kind: True
    room.leave(two)
    assert room.left == {two: None}, "it had nothing"
    assert room.peers[two].leaving.has_left
    room.meet([one])
    room.leave(one)
    assert room.left[one] is None
    assert not room.peers[one].leaving.has_left


def test_whoever_leaves_gives_nothing_out_and_takes_nothing_in() -> None:
    room = Room(2)
    one, two = room.names
    key = AllocationKey("c", "eth0")
    room.perform(one, room.peers[one].allocate(3, key, room.now))
    held = room.answers[-1]
    room.loses = lambda *_: True
    room.leave(one)
    room.perform(one, room.peers[one].allocate(4, key, room.now))
    assert room.answers[-1] == held, "what a key has it is told"
    for ask in (room.peers[one].allocate, room.peers[two].allocate):
        room.perform(one, ask(5, AllocationKey("d", "eth0"), room.now))
    assert Refused("leaving") in room.answers
    room.loses = lambda *_: False
    room.perform(one, room.peers[one].stay(room.now))
    room.perform(one, room.peers[one].allocate(6, AllocationKey("e", "eth0"), room.now))
    assert isinstance(room.answers[-1], Allocated)


def test_many_slices_go_in_many_messages() -> None:
    room = Room(2)
    one, two = room.names
    ring = room.peers[one].ring
    for start in range(RANGE.start + 1, RANGE.end - 1):
        held = next(p for p in ring.owned(one) if p.start <= start < p.end)
        if held.end - start > 1:
            ring.give(held.start, start, one)  # type: ignore[arg-type]
    assert len(ring.slices) > 200
    room.gossip(one, tuple(ring.digest()))
    said = 0

    def counts(src: PeerName, dst: PeerName, kind: MessageKind) -> bool:
        nonlocal said
        said += kind is MessageKind.HANDOVER
        return said % 3 == 2

    room.loses = counts
    room.leave(one)
    room.run(20.0)
    assert room.left == {one: two}
    assert room.owner(two) == {two}
    assert room.peers[two].space.size == RANGE.size


def test_what_was_given_before_is_handed_on_as_known() -> None:
    """R19: giver and taker may be the only ones who know of a gift; the giver leaves."""
    room = Room(3)
    one, two, three = room.names
    room.meet([one, two])
    ring = room.peers[one].ring
    given = ring.range.number("10.32.0.128")
    ring.give(given, Address(given + 16), three)  # nobody has heard of it
    room.leave(one)
    room.run(5.0)
    assert room.left == {one: two}
    assert room.peers[two].ring.owner_of(given) == three
