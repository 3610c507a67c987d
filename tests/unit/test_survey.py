"""What every peer says of its addresses, compared: who overlaps, lacks, hides, is silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.effects import AllocationKey, AllocatorEffect, Answer, Refused, SendTo, Surveyed
from ipam.exclusions import parse_exclusions
from ipam.messages import Message, MessageKind
from ipam.report import Report
from ipam.survey import MAX_ROUNDS, SILENCE
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Arm
from mesh.names import PeerName
from weaver.daemon.comparison import compare, has_settled
from weaver.daemon.ledger import Ledger
from weaver.status import check_text

RANGE = AddressRange.parse("10.32.0.0/24")
IDENTITIES = [Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3)]
NOW = Instant(1.0)


class Room:
    """Three that share a ring and hear each other; what ``deaf`` ones are told is lost."""

    def __init__(self) -> None:
        self.peers = [
            Allocator(i, RANGE, Random(n), entropy_id=b"c" * 16) for n, i in enumerate(IDENTITIES)
        ]
        self.by_name = {peer.us: peer for peer in self.peers}
        self.deaf: set[PeerName] = set()
        self.pending: list[AllocatorEffect] = []
        one = self.peers[0]
        one.seed(1, tuple(i.name for i in IDENTITIES), NOW)
        for change in one.ring.slices.values():
            one.ring.saved(change.start, one.ring.encoded(change))
        for peer in self.peers:
            if peer is not one:
                peer.ring.merge(one.ring.items(one.ring.digest()), one.us, NOW)
                peer.channel_changed("ipam", NOW)
            peer.peers({p.us: "p" for p in self.peers if p is not peer}, NOW)

    def survey(self, now: Instant = NOW) -> Surveyed | Refused:
        one = self.peers[0]
        effects = one.survey(9, now)
        while True:
            for effect in effects:
                if isinstance(effect, Answer):
                    assert effect.request == 9
                    assert not hasattr(effect.result, "address")
                    return effect.result
            effects = self._carried(effects)
            if not effects:
                (at,) = {e.deadline for e in self.pending if isinstance(e, Arm)}
                assert at is not None
                now = at
                assert now <= NOW + SILENCE
                effects = one.handle_timer(now)
            self.pending = effects

    def _carried(self, effects: list[AllocatorEffect]) -> list[AllocatorEffect]:
        self.pending = effects
        back: list[AllocatorEffect] = []
        for effect in effects:
            if isinstance(effect, SendTo) and effect.peer not in self.deaf:
                peer = self.by_name[effect.peer]
                for answer in peer.receive(self.peers[0].us, effect.message, NOW):
                    if isinstance(answer, SendTo):
                        back += self.peers[0].receive(peer.us, answer.message, NOW)
        return back

    def found(self, change: Callable[[Surveyed], Surveyed] = lambda s: s) -> list[str]:
        survey = self.survey()
        assert isinstance(survey, Surveyed)
        ring = self.peers[0].ring
        return [f["what"] for f in compare(ring, change(survey), str)]


def changed(peer: int, change: Callable[[Report], Report]) -> Callable[[Surveyed], Surveyed]:
    name = IDENTITIES[peer].name
    return lambda s: replace(s, reports={**s.reports, name: change(s.reports[name])})


def test_peers_that_agree() -> None:
    """protocol.md 12.4"""
    room = Room()
    room.peers[1].allocate(2, AllocationKey("a", "b"), NOW)
    survey = room.survey()
    assert isinstance(survey, Surveyed)
    assert set(survey.reports) == {i.name for i in IDENTITIES}
    assert survey.silent == ()
    assert [survey.reports[i.name].used for i in IDENTITIES] == [0, 1, 0]
    assert compare(room.peers[0].ring, survey, str) == []
    assert has_settled(room.peers[0].ring, survey)


def test_a_peer_that_does_not_answer_is_named_in_bounded_time() -> None:
    room = Room()
    room.deaf = {IDENTITIES[2].name}
    assert room.found() == ["silent"]


def test_a_peer_that_hears_the_second_question_is_not_silent() -> None:
    room = Room()
    one, name = room.peers[0], IDENTITIES[2].name
    room.deaf = {name}
    room._carried(one.survey(9, NOW))
    room.deaf = set()
    effects = room._carried(one.handle_timer(Instant(NOW + SILENCE / 2)))
    (answer,) = [e for e in effects if isinstance(e, Answer)]
    assert isinstance(answer.result, Surveyed)
    assert answer.result.silent == ()


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    room = Room()
    one, two = room.peers[0], room.peers[1]
    forged = Message(MessageKind.EXAMINED, 77, report=two.report())
    assert not [e for e in one.receive(two.us, forged.encode(), NOW) if isinstance(e, Answer)]
    effects = one.survey(9, NOW)
    number = next(int.from_bytes(e.message[1:5], "big") for e in effects if isinstance(e, SendTo))
    answer = Message(MessageKind.EXAMINED, number, report=two.report()).encode()
    stranger = PeerName(b"stranger")
    for src in (stranger, two.us, two.us):
        assert not [e for e in one.receive(src, answer, NOW) if isinstance(e, Answer)]


def test_surveys_at_once_are_bounded() -> None:
    room = Room()
    room.deaf = {i.name for i in IDENTITIES}
    for n in range(MAX_ROUNDS):
        assert not [e for e in room.peers[0].survey(n, NOW) if isinstance(e, Answer)]
    (answer,) = [e for e in room.peers[0].survey(99, NOW) if isinstance(e, Answer)]
    assert answer == Answer(99, Refused("too-many-requests"))


START = RANGE.start


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: replace(r, owned=((START, Address(START + 9), 1),)), ["overlap", "disowned"]),
        (lambda r: replace(r, owned=(), owned_count=0), ["disowned"]),
        (lambda r: replace(r, owned=(), owned_count=5), []),
        (lambda r: replace(r, owned_count=65), ["fragmented"]),
        (lambda r: replace(r, ring=bytes(32)), ["ring-differs"]),
        (lambda r: replace(r, cluster=16 * b"x", ring=bytes(32)), ["cluster-mismatch"]),
        (lambda r: replace(r, disputed=((START, Address(START + 1)),)), ["disputed"]),
        (lambda r: replace(r, gaps=((START, Address(START + 1)),)), ["gap"]),
        (lambda r: replace(r, astray=(START,)), ["astray"]),
        (lambda r: replace(r, leaks=2), ["leak"]),
        (lambda r: replace(r, withheld="leaving"), ["withheld"]),
        (lambda r: replace(r, excluded=bytes(8)), ["exclusions-differ"]),
    ],
)
def test_what_another_peer_says_is_wrong(
    change: Callable[[Report], Report], what: list[str]
) -> None:
    room = Room()
    assert room.found(changed(1, change)) == what


def test_what_may_be_on_its_way_is_asked_again() -> None:
    room = Room()
    survey = room.survey()
    assert isinstance(survey, Surveyed)
    ring = room.peers[0].ring
    report = survey.reports[IDENTITIES[1].name]
    more = (*report.owned, (START, Address(START + 9), 1))
    for seen in (
        replace(report, ring=bytes(32)),
        replace(report, owned=(), owned_count=0),
        replace(report, owned=more, owned_count=len(more)),
    ):
        other = replace(survey, reports={**survey.reports, IDENTITIES[1].name: seen})
        assert not has_settled(ring, other)


def test_one_host_s_exclusions_are_seen_by_another() -> None:
    """docs/ipam.md R22"""
    room = Room()
    exclusions = parse_exclusions("10.32.0.9")
    space = room.peers[1].space
    space.excluded = type(space.excluded)(RANGE, exclusions)
    assert room.found() == ["exclusions-differ"]


def test_the_page_names_who_was_asked_and_what_is_wrong() -> None:
    room = Room()
    room.deaf = {IDENTITIES[2].name}
    survey = room.survey()
    assert isinstance(survey, Surveyed)
    reachable = {i.name for i in IDENTITIES}
    book = Ledger(
        room.peers[0],
        nickname=lambda peer: "abc"[[i.name for i in IDENTITIES].index(peer)],
        reachable=lambda: reachable,
        history=lambda _address, _limit: [],
    )
    check = book.check(survey)
    assert {row["nickname"]: row["answered"] for row in check["asked"]} == {
        "a": True,
        "b": True,
        "c": False,
    }
    assert [f["what"] for f in check["findings"]] == ["silent"]
    assert "asked 3 peers, 1 silent" in check_text(check)
