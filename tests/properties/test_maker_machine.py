"""protocol.md 4: the connection maker against a model that sees every dial."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.clock import Instant
from mesh.connection.maker import (
    BACKOFF_FIRST,
    BACKOFF_MAX,
    DIAL_BURST,
    DIAL_RATE,
    JITTER,
    ConnectionMaker,
    Dial,
    MakerEffect,
    PersistTargets,
    Target,
    TargetState,
)
from mesh.effects import Arm
from mesh.names import Endpoint, PeerName

LIMIT = 5
TARGETS = [Target("10.0.0.1", port) for port in range(1, 9)]
PEERS = [PeerName(bytes([n]) * 8) for n in range(4)]
REASONS = ["unreachable", "wrong-password", "own-address", "stream-ended"]

targets = st.sampled_from(TARGETS)
peers = st.sampled_from(PEERS)


class MakerMachine(RuleBasedStateMachine):
    """Dials as it is told; knows what is under way, and when each target was last let go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Instant(0.0)
        self.maker = ConnectionMaker(Random(1), limit=LIMIT)
        self.dialling: set[Target] = set()
        self.connections: dict[PeerName, Target | None] = {}
        self.not_before: dict[Target, Instant] = {}
        self.dialled_at: list[Instant] = []
        self.deadline: Instant | None = None
        self.persisted: tuple[Target, ...] = ()
        self.operator: set[Target] = set()

    def perform(self, effects: list[MakerEffect]) -> None:
        assert sum(isinstance(effect, Arm) for effect in effects) == 1
        for effect in effects:
            match effect:
                case Dial(target):
                    assert target not in self.dialling, "one attempt of a target at a time"
                    assert self.now >= self.not_before.get(target, Instant(0.0)), "back-off"
                    self.dialling.add(target)
                    self.dialled_at.append(self.now)
                case Arm(deadline):
                    assert deadline is None or deadline >= self.now
                    self.deadline = deadline
                case PersistTargets(lasting):
                    self.persisted = lasting

    def let_go(self, target: Target) -> None:
        self.not_before[target] = Instant(self.now + BACKOFF_FIRST * (1 - JITTER))

    @rule(place=targets)
    def connect(self, place: Target) -> None:
        self.operator.add(place)
        self.not_before.pop(place, None)
        self.perform(self.maker.connect([place], self.now))

    @rule(place=targets)
    def forget(self, place: Target) -> None:
        self.operator.discard(place)
        self.not_before.pop(place, None)
        self.perform(self.maker.forget([place], self.now))

    @rule(found=st.dictionaries(peers, st.frozensets(targets, max_size=3), max_size=3))
    def discover(self, found: dict[PeerName, frozenset[Target]]) -> None:
        places = {
            peer: frozenset(Endpoint(t.host, t.port) for t in where)
            for peer, where in found.items()
        }
        self.perform(self.maker.discovered(places, self.now))

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), reason=st.sampled_from(REASONS))
    def fail(self, data: st.DataObject, reason: str) -> None:
        target = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.remove(target)
        self.let_go(target)
        self.perform(self.maker.dial_failed(target, reason, self.now))

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), peer=peers)
    def succeed(self, data: st.DataObject, peer: PeerName) -> None:
        target = data.draw(st.sampled_from(sorted(self.dialling)))
        self.dialling.remove(target)
        if peer in self.connections:
            effects = self.maker.lost(target, peer, "duplicate-connection", self.now, another=True)
        else:
            self.connections[peer] = target
            place = Endpoint(target.host, target.port)
            effects = self.maker.established(target, peer, place, self.now)
        self.perform(effects)

    @rule(peer=peers, place=targets)
    def accept(self, peer: PeerName, place: Target) -> None:
        if peer in self.connections or self.maker.active >= LIMIT:
            return
        self.maker.accepted(self.now)
        self.connections[peer] = None
        reached = Endpoint(place.host, place.port)
        self.perform(self.maker.established(None, peer, reached, self.now))
        assert self.maker.half_open == 0

    @precondition(lambda self: self.connections)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        peer = data.draw(st.sampled_from(sorted(self.connections)))
        target = self.connections.pop(peer)
        for row in self.maker.status():
            if row.peer == peer:
                self.let_go(row.target)
        self.perform(self.maker.lost(target, peer, "peer-silent", self.now))

    @rule(seconds=st.sampled_from([0.01, 1.0, 5.0, 70.0, 500.0]))
    def wait(self, seconds: float) -> None:
        end = Instant(self.now + seconds)
        while self.deadline is not None and self.deadline <= end:
            self.now = self.deadline
            self.perform(self.maker.handle_timer(self.now))
        self.now = end

    @invariant()
    def attempts_and_connections_stay_within_the_limit(self) -> None:
        assert len(self.dialling) + len(self.connections) <= LIMIT
        assert self.maker.active == len(self.dialling) + len(self.connections)

    @invariant()
    def attempts_stay_within_the_rate(self) -> None:
        for n, first in enumerate(self.dialled_at):
            count = sum(first <= when <= first + 1 for when in self.dialled_at[n:])
            assert count <= DIAL_BURST + DIAL_RATE

    @invariant()
    def rows_say_what_is(self) -> None:
        for row in self.maker.status():
            assert (row.state is TargetState.ATTEMPTING) == (row.target in self.dialling)
            assert (row.state is TargetState.CONNECTED) == (row.peer is not None)
            assert row.peer is None or row.peer in self.connections
            assert (row.next_attempt is not None) == (row.state is TargetState.WAITING)
            if row.next_attempt is not None:
                assert row.next_attempt - self.now <= BACKOFF_MAX * (1 + JITTER)

    @invariant()
    def the_operators_targets_are_remembered(self) -> None:
        assert self.operator <= set(self.persisted)
        assert self.operator <= {row.target for row in self.maker.status()}


MakerMachine.TestCase.settings = settings(deadline=None, stateful_step_count=40)
TestMaker = MakerMachine.TestCase
