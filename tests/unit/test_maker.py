"""protocol.md 4.3 and 4.6: what is dialled and when, and what is accepted."""

from __future__ import annotations

from random import Random

import pytest

from mesh.clock import Instant
from mesh.connection.bucket import Bucket
from mesh.connection.maker import (
    ACCEPT_BURST,
    ACCEPT_RATE,
    BACKOFF_MAX,
    DIAL_BURST,
    DIAL_RATE,
    GOOD_AFTER,
    JITTER,
    KEEP_PROVEN,
    MAX_HALF_OPEN,
    MAX_OPERATOR_TARGETS,
    MAX_PLACES,
    ConnectionMaker,
    Dial,
    MakerEffect,
    PersistTargets,
    Target,
    TargetState,
    TargetStatus,
    survivor,
)
from mesh.effects import Arm
from mesh.errors import OperatorError
from mesh.names import Endpoint, PeerName

NOW = Instant(100.0)
A, B = Target("10.0.0.1", 6783), Target("10.0.0.2", 6783)
PEER, OTHER = PeerName(b"peer-one"), PeerName(b"peer-two")


def after(seconds: float) -> Instant:
    return Instant(NOW + seconds)


def maker(limit: int = 200) -> ConnectionMaker:
    return ConnectionMaker(Random(1), limit=limit)


def dials(effects: list[MakerEffect]) -> list[Target]:
    return [e.target for e in effects if isinstance(e, Dial)]


def persisted(effects: list[MakerEffect]) -> list[tuple[Target, ...]]:
    return [e.targets for e in effects if isinstance(e, PersistTargets)]


def wake(effects: list[MakerEffect]) -> Instant | None:
    return next(e.deadline for e in effects if isinstance(e, Arm))


def row(m: ConnectionMaker, target: Target = A) -> TargetStatus:
    return next(status for status in m.status() if status.target == target)


def at(target: Target) -> Endpoint:
    return Endpoint(target.host, target.port)


# ---- addresses


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("10.0.0.1", A),
        ("10.0.0.1:99", Target("10.0.0.1", 99)),
        ("host.example", Target("host.example", 6783)),
        ("host:1", Target("host", 1)),
        ("2001:DB8::1", Target("2001:db8::1", 6783)),
        ("[2001:db8:0::1]:5", Target("2001:db8::1", 5)),
        ("[::1]", Target("::1", 6783)),
    ],
)
def test_addresses(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a:0",
        "a:65536",
        "a:b",
        "[::1",
        "[::1]9",
        "a b",
        "1:2:3",
        "x" * 254,
        "a:-1",
        "fe80::1",
        "a..b",
        ".a",
        "x" * 64,
        "[fe80::1%eth0]:6783",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(OperatorError):
        Target.parse(text)


# ---- back-off


def test_a_target_is_tried_at_once_and_then_ever_more_rarely() -> None:
    """protocol.md 4.3: 2 s, ×1.5, at most 6 min, give or take a quarter."""
    m = maker()
    assert dials(m.connect([A], NOW)) == [A]
    now, nominal = NOW, 2.0
    for n in range(25):
        due = wake(m.dial_failed(A, "connection-refused", now))
        assert due is not None
        assert (1 - JITTER) * nominal <= due - now <= (1 + JITTER) * nominal
        assert row(m).last_error == "connection-refused"
        assert dials(m.handle_timer(Instant(due - 0.001))) == []
        assert dials(m.handle_timer(due)) == [A]
        assert row(m).tries == n + 2
        now, nominal = due, min(nominal * 1.5, BACKOFF_MAX)
    assert nominal == BACKOFF_MAX


@pytest.mark.parametrize(("lasted", "is_first"), [(GOOD_AFTER, True), (GOOD_AFTER - 1, False)])
def test_a_good_minute_resets_the_back_off(lasted: float, is_first: bool) -> None:
    """protocol.md 4.3"""
    m = maker()
    m.connect([A], NOW)
    for _ in range(10):
        due = wake(m.dial_failed(A, "unreachable", NOW))
        assert due is not None
        m.handle_timer(due)
    m.established(A, PEER, at(A), NOW)
    due = wake(m.lost(A, PEER, "stream-ended", after(lasted)))
    assert due is not None
    assert (due - after(lasted) < 3) == is_first


def test_the_operator_may_hurry_it() -> None:
    m = maker()
    m.connect([A], NOW)
    m.dial_failed(A, "unreachable", NOW)
    assert dials(m.connect([A], after(0.1))) == [A]
    assert dials(m.connect([A], after(0.2))) == []  # it is being attempted


@pytest.mark.parametrize("reason", ["peer-restarted", "duplicate-connection", "cloned-identity"])
def test_what_the_other_end_says_of_other_connections_is_not_believed(reason: str) -> None:
    """protocol.md 4.3: the only connection is gone, whatever its end was called: try again."""
    m = maker()
    m.connect([A], NOW)
    m.established(A, PEER, Endpoint(A.host, A.port), NOW)
    effects = m.lost(A, PEER, reason, after(5))
    assert [row.state for row in m.status()] == [TargetState.WAITING]
    assert wake(effects) is not None
    assert m.active == 0


@pytest.mark.parametrize("reason", ["own-address", "cloned-identity"])
def test_ourselves_and_our_clone_are_not_tried_again(reason: str) -> None:
    """protocol.md 4.3: only an operator's order wakes them."""
    m = maker()
    m.connect([A], NOW)
    assert wake(m.dial_failed(A, reason, NOW)) is None
    assert row(m).state is TargetState.SUSPENDED
    assert dials(m.handle_timer(after(10_000))) == []
    assert dials(m.connect([A], after(10_001))) == [A]


# ---- connections


def test_a_target_of_a_connected_peer_counts_as_connected() -> None:
    """protocol.md 4.3: two names of one peer do not fight."""
    m = maker()
    m.connect([A, B], NOW)
    m.established(A, PEER, at(A), NOW)
    m.lost(B, PEER, "duplicate-connection", NOW, another=True)
    assert row(m, B).state is TargetState.CONNECTED
    assert row(m, B).peer == PEER
    assert dials(m.handle_timer(after(10_000))) == []
    due = wake(m.lost(A, PEER, "stream-ended", after(10_000)))
    assert due is not None
    (first,) = dials(m.handle_timer(after(10_010)))  # one address of a peer at a time
    (second,) = dials(m.dial_failed(first, "unreachable", after(10_011)))
    assert {first, second} == {A, B}


def test_a_peer_that_dialled_us_makes_its_target_connected() -> None:
    m = maker()
    m.connect([A], NOW)
    m.dial_failed(A, "unreachable", NOW)
    m.accepted(NOW)
    m.established(None, PEER, at(A), after(0.5))
    assert row(m).state is TargetState.CONNECTED
    assert m.half_open == 0
    assert dials(m.handle_timer(after(60))) == []


def test_a_peer_known_by_another_address_is_recognised() -> None:
    m = maker()
    m.connect([A], NOW)
    m.established(A, PEER, at(A), NOW)
    m.lost(A, PEER, "peer-silent", NOW)
    m.established(None, PEER, Endpoint("192.0.2.9", 6783), after(0.1))
    assert row(m).state is TargetState.CONNECTED


def test_connections_and_attempts_share_the_limit() -> None:
    """protocol.md 4.6: the operator's targets go first."""
    m = maker(limit=2)
    m.established(None, OTHER, Endpoint("192.0.2.1", 6783), NOW)
    m.discovered({PEER: frozenset({at(B)})}, NOW)
    assert m.active == 2
    assert dials(m.connect([A], NOW)) == []
    assert row(m).last_error == "connection-limit"
    assert dials(m.dial_failed(B, "unreachable", after(1))) == [A]


def test_attempts_a_second_are_bounded() -> None:
    """protocol.md 4.6"""
    m = maker()
    many = [Target("10.0.1.1", port) for port in range(1, 101)]
    effects = m.connect(many, NOW)
    assert len(dials(effects)) == DIAL_BURST
    due = wake(effects)
    assert due is not None
    assert due - NOW == pytest.approx(1 / DIAL_RATE)
    assert len(dials(m.handle_timer(due))) == 1
    assert len(dials(m.handle_timer(Instant(due + 1)))) == DIAL_RATE


# ---- discovery


def test_discovered_addresses_come_and_go() -> None:
    """protocol.md 4.3: one attempt a peer at a time, whatever its addresses."""
    m = maker()
    places = frozenset({at(A), at(B)})
    assert dials(m.discovered({PEER: places}, NOW)) == [A]
    assert dials(m.dial_failed(A, "unreachable", NOW)) == [B]
    assert [s.origin for s in m.status()] == ["discovered", "discovered"]
    m.dial_failed(B, "unreachable", NOW)
    m.discovered({}, after(0.1))
    assert dials(m.handle_timer(after(10))) == []
    assert m.status() == []


def test_what_vanishes_and_returns_keeps_its_back_off() -> None:
    """protocol.md 4.3: discovery again and again is not dialling again and again."""
    m = maker()
    m.discovered({PEER: frozenset({at(A)})}, NOW)
    m.dial_failed(A, "connection-limit", NOW)
    m.discovered({}, after(0.1))
    assert dials(m.discovered({PEER: frozenset({at(A)})}, after(0.2))) == []
    assert dials(m.handle_timer(after(3))) == [A]


def test_discovery_may_be_off() -> None:
    m = ConnectionMaker(Random(1), discovery=False)
    assert m.discovered({PEER: frozenset({at(A)})}, NOW) == []
    assert m.status() == []


def test_a_peer_has_few_places() -> None:
    m = maker()
    places = frozenset(Endpoint("10.9.9.9", port) for port in range(1, 100))
    m.discovered({PEER: places}, NOW)
    assert len(m.status()) == MAX_PLACES


def test_what_worked_is_kept_for_a_day() -> None:
    """protocol.md 4.3: two halves that only discovery had joined find each other again."""
    m = maker()
    m.discovered({PEER: frozenset({at(A)})}, NOW)
    assert persisted(m.established(A, PEER, at(A), NOW)) == [(A,)]
    m.discovered({}, NOW)
    m.lost(A, PEER, "peer-silent", after(100))
    assert dials(m.discovered({}, after(103))) == [A]
    m.dial_failed(A, "unreachable", after(103))
    assert persisted(m.handle_timer(after(100 + KEEP_PROVEN + 10))) == [()]
    assert m.status() == []


# ---- targets over restarts


def test_targets_are_persisted_when_they_change() -> None:
    m = maker()
    assert persisted(m.connect([A], NOW)) == [(A,)]
    assert persisted(m.connect([A], NOW)) == []
    assert persisted(m.connect([B], NOW)) == [(A, B)]
    assert persisted(m.forget([A, B], NOW)) == [()]


def test_forgetting() -> None:
    m = maker()
    m.connect([A, B], NOW)
    m.dial_failed(A, "unreachable", NOW)
    m.established(B, PEER, at(B), NOW)
    m.forget([A, B, Target("unknown")], NOW)
    assert [s.target for s in m.status()] == [B]  # until its connection is closed
    m.lost(B, PEER, "forgotten", NOW)
    assert m.status() == []


def test_too_many_targets_are_refused_whole() -> None:
    m = maker()
    m.connect([A], NOW)
    many = [Target("h", port) for port in range(1, MAX_OPERATOR_TARGETS + 1)]
    with pytest.raises(OperatorError):
        m.connect(many, NOW)
    assert len(m.status()) == 1
    assert dials(m.connect([B], NOW)) == [B]


# ---- accepting


def test_half_open_connections_are_bounded() -> None:
    """protocol.md 4.6"""
    m = maker()
    for _ in range(MAX_HALF_OPEN):
        assert m.may_accept(NOW)
        m.accepted(NOW)
    assert not m.may_accept(NOW)
    m.rejected(NOW)
    assert m.may_accept(NOW)


def test_accepted_connections_a_second_are_bounded() -> None:
    m = maker()
    assert sum(m.may_accept(NOW) for _ in range(500)) == ACCEPT_BURST
    assert sum(m.may_accept(after(1)) for _ in range(500)) == ACCEPT_RATE


def test_the_bucket_says_when() -> None:
    bucket = Bucket(rate=3.0, burst=1.0)
    now = NOW
    assert bucket.take(now)
    for _ in range(50):
        due = bucket.next(now)
        assert not bucket.take(Instant(due - 0.001))
        now = bucket.next(Instant(due - 0.001))
        assert now == pytest.approx(due)
        assert bucket.take(now)


def test_the_survivor_is_the_same_on_both_ends() -> None:
    """protocol.md 4.2"""
    assert survivor(b"a" * 32, b"b" * 32) == survivor(b"b" * 32, b"a" * 32) == b"a" * 32
