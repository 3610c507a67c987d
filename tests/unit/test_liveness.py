"""Liveness under virtual time: the dead, the slow, the starved, and liars."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.topology.liveness import (
    MAX_VOUCHES,
    AskOthers,
    Dead,
    Liveness,
    LivenessEffect,
    Measured,
    ReplayedProbeError,
    SendProbe,
    Suspect,
)
from mesh.wire.probe import ForgedProbeError, Probe
from tests.sim.views import name

KEY = bytes(32)
TIMEOUT = 5.0


@dataclass
class Watch:
    """One end: its machine, and a driver that may itself be starved of the processor."""

    machine: Liveness
    wake: Instant | None = None
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    suspected: list[float] = field(default_factory=list)
    died: float | None = None
    measured: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, us: int = 1, peer: int = 2, timeout: float = TIMEOUT) -> Watch:
        watch = cls(Liveness(name(us), name(peer), KEY, Random(us), timeout=timeout))
        watch.perform(watch.machine.start(Instant(0.0)), 0.0)
        return watch

    def perform(self, effects: list[LivenessEffect], now: float) -> None:
        for effect in effects:
            match effect:
                case SendProbe(data):
                    self.sent.append((now, data))
                case AskOthers():
                    self.asked.append(now)
                case Arm(deadline):
                    self.wake = deadline
                case Notify(event):
                    self._happened(event, now)

    def _happened(self, event: Measured | Suspect | Dead, now: float) -> None:
        match event:
            case Measured(rtt):
                self.measured.append(rtt)
            case Suspect():
                self.suspected.append(now)
            case Dead():
                assert self.died is None
                self.died = now

    def run_until(self, end: float) -> None:
        """Timers fire when they are due."""
        while self.wake is not None and self.wake <= end:
            self.fire(self.wake)

    def fire(self, now: float) -> None:
        before = self.wake
        self.perform(self.machine.handle_timer(Instant(now)), now)
        assert self.wake is None or before is None or self.wake > now, "spins"

    def hear(self, data: bytes, now: float) -> None:
        self.perform(self.machine.receive_probe(data, Instant(now)), now)


def probe(sequence: int, *, echo: int = 0, held_us: int = 0, key: bytes = KEY) -> bytes:
    """As peer 2 sends them to peer 1."""
    return Probe(name(2), name(1), sequence, echo, held_us).encode(key)


def test_a_dead_peer_is_declared_within_the_timeout() -> None:
    """protocol.md 9.2: suspected at 60 %, dead at the timeout when nobody vouches."""
    watch = Watch.of()
    for second in range(10):
        watch.run_until(second)
        watch.hear(probe(second + 1), second)
    watch.run_until(100)
    assert watch.suspected == watch.asked == [pytest.approx(9 + 3.0)]
    assert watch.died == pytest.approx(9 + 5.0)
    assert watch.wake is None
    sent = len(watch.sent)
    watch.hear(probe(99), 101)
    assert watch.machine.handle_timer(Instant(102.0)) == []
    assert len(watch.sent) == sent


@pytest.mark.parametrize("timeout", [1.0, 5.0, 60.0])
def test_probes_go_out_every_fifth_of_the_timeout(timeout: float) -> None:
    """protocol.md 9.1: within a tenth; 9.2: what comes on the connection is a sign of life."""
    watch = Watch.of(timeout=timeout)
    for step in range(100):
        now = step * timeout / 5
        watch.run_until(now)
        watch.machine.heard(Instant(now))
    gaps = [b[0] - a[0] for a, b in zip(watch.sent, watch.sent[1:], strict=False)]
    assert len(gaps) > 90
    assert all(0.18 * timeout <= gap <= 0.22 * timeout for gap in gaps)
    assert watch.died is None
    assert watch.suspected == []


def test_a_late_answer_clears_the_suspicion() -> None:
    """protocol.md 9.2: a starved peer that answers before the timeout is not declared dead."""
    watch = Watch.of()
    for n in range(20):
        watch.run_until(4.9 * (n + 1))
        assert watch.died is None
        watch.hear(probe(n + 1), 4.9 * (n + 1))
    assert len(watch.suspected) == 20


def test_a_starved_peer_lives_on_the_word_of_others() -> None:
    """protocol.md 9.2: a vouch lets the timeout begin again; then it answers late."""
    watch = Watch.of()
    watch.run_until(3.1)
    assert watch.asked == [pytest.approx(3.0)]
    watch.machine.vouched(Instant(3.1))
    watch.run_until(8.0)
    assert watch.died is None
    assert watch.asked == [pytest.approx(3.0), pytest.approx(6.1)]
    watch.hear(probe(1), 8.0)
    watch.run_until(12.9)
    assert watch.died is None
    watch.run_until(13.1)
    assert watch.died == pytest.approx(13.0)


def test_vouches_run_out() -> None:
    """protocol.md 9.2: at most three in a row, so a liar cannot keep the dead alive."""
    watch = Watch.of()
    now = 0.0
    while watch.died is None and now < 100:
        now += 0.1
        watch.run_until(now)
        watch.machine.vouched(Instant(now))
    assert len(watch.asked) == 1 + MAX_VOUCHES
    assert watch.died is not None
    assert watch.died <= (1 + MAX_VOUCHES) * TIMEOUT


def test_own_signs_of_life_renew_the_vouches() -> None:
    """protocol.md 9.2: three in a row *without* an own sign of life."""
    watch = Watch.of()
    for n in range(10):
        for round_ in range(MAX_VOUCHES):
            start = n * 13.0 + round_ * 3.1
            watch.run_until(start + 3.05)
            watch.machine.vouched(Instant(start + 3.05))
        watch.run_until((n + 1) * 13.0 - 0.5)
        watch.hear(probe(n + 1), (n + 1) * 13.0 - 0.5)
    assert watch.died is None


def test_a_vouch_for_nobody_suspected_changes_nothing() -> None:
    watch = Watch.of()
    watch.run_until(2.0)
    watch.machine.vouched(Instant(2.0))
    watch.run_until(10.0)
    assert watch.died == pytest.approx(5.0)


def test_our_own_starvation_is_not_held_against_others() -> None:
    """protocol.md 9.3: who did not run could not hear; a dead peer still dies afterwards."""
    watch = Watch.of()
    watch.run_until(1.5)
    watch.fire(61.5)
    assert watch.died is None
    assert watch.suspected == []
    watch.hear(probe(1), 61.6)
    watch.run_until(66.5)
    assert watch.died is None
    watch.run_until(67.0)
    assert watch.died == pytest.approx(66.6)


def test_a_host_that_hardly_runs_declares_nobody_dead() -> None:
    """protocol.md 9.3: every timer 2 s late for a minute, and no answer in time for any."""
    watch = Watch.of()
    now = 0.0
    for n in range(30):
        assert watch.wake is not None
        now = watch.wake + 2.0
        watch.fire(now)
        if n % 3 == 2:
            watch.hear(probe(n), now)
    assert now > 60
    assert watch.died is None


def test_a_busy_loop_is_no_excuse() -> None:
    """protocol.md 9.3: lateness below 5 % of the timeout moves nothing."""
    watch = Watch.of()
    while watch.died is None:
        assert watch.wake is not None
        watch.fire(watch.wake + 0.2)
    assert watch.died == pytest.approx(5.2)


def test_replayed_forged_and_misdirected_probes_prove_nothing() -> None:
    """protocol.md 9.1: none of them is a sign of life; the next good one is."""
    watch = Watch.of()
    watch.hear(probe(5), 0.5)
    foreign = Probe(name(3), name(1), 9, 0, 0).encode(KEY)
    mirrored = Probe(name(1), name(2), 9, 0, 0).encode(KEY)
    for n in range(45):
        now = 1.0 + n / 10
        watch.run_until(now)
        for data in (probe(5), probe(4)):
            with pytest.raises(ReplayedProbeError):
                watch.hear(data, now)
        with pytest.raises(ForgedProbeError):
            watch.hear(probe(9, key=b"x" * 32), now)
        for data in (foreign, mirrored, b"noise"):
            with pytest.raises(MalformedMessageError):
                watch.hear(data, now)
    assert watch.suspected == [pytest.approx(3.5)]
    watch.hear(probe(6), 5.45)
    watch.run_until(10.4)
    assert watch.died is None


def test_round_trips_are_measured_without_the_time_a_probe_was_held() -> None:
    """protocol.md 9.1: time since the echoed probe was sent, less held; smoothed by 1/8."""
    watch = Watch.of()
    watch.hear(probe(1, echo=1, held_us=700_000), 0.74)
    assert watch.measured == [pytest.approx(0.04)]
    watch.run_until(1.2)
    sent = watch.sent[-1][0]
    watch.hear(probe(2, echo=2, held_us=0), sent + 0.12)
    assert watch.measured[-1] == pytest.approx(0.04 + 0.08 / 8)
    watch.hear(probe(3, echo=2), 3.0)
    watch.hear(probe(4, echo=77), 3.0)
    assert len(watch.measured) == 2


def test_a_peer_that_lies_about_held_is_not_believed() -> None:
    """protocol.md 9.1: nobody holds a probe for longer than it was away."""
    watch = Watch.of()
    watch.hear(probe(1, echo=1, held_us=900_000), 0.5)
    assert watch.measured == []
    watch.run_until(1.2)
    sent = watch.sent[-1][0]
    watch.hear(probe(2, echo=2, held_us=10_200), sent + 0.01)
    assert watch.measured == [0.0], "clocks may differ by a hair"


def test_two_ends_measure_each_other() -> None:
    """protocol.md 9.1: both ends, 30 ms apart each way, come to 60 ms."""
    ends = [Watch.of(1, 2), Watch.of(2, 1)]
    carried = [0, 0]
    for step in range(3000):
        now = step / 100
        for side, end in enumerate(ends):
            end.run_until(now)
            while carried[side] < len(end.sent) and end.sent[carried[side]][0] + 0.03 <= now:
                ends[1 - side].hear(end.sent[carried[side]][1], now)
                carried[side] += 1
    for end in ends:
        assert end.machine.rtt == pytest.approx(0.06, abs=0.02)
        assert end.died is None
        assert end.suspected == []
