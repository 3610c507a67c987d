"""The direct path's probe: up, down, how fast, how large. docs/protocol.md 10.6."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.link.linkprobe import (
    BEAT_SIZE,
    DOWN_AFTER,
    LinkDown,
    LinkEffect,
    LinkProbe,
    LinkUp,
    Measured,
    SegmentChanged,
    SendProbe,
    SteadyChanged,
)
from mesh.link.pathmtu import (
    BASE,
    BUSY_INTERVAL,
    FLOOR,
    GROWTH_INTERVAL,
    LADDER,
    REST_INTERVAL,
    STEP,
)
from mesh.link.steadiness import TRIAL_FIRST, TRIAL_MAX

RTT = 0.01


class Path:
    """A path in virtual time that carries what ``fits`` says."""

    def __init__(self, fits: Callable[[int], bool], seed: int = 1) -> None:
        self.fits = fits
        self.now = Instant(0.0)
        self.probe = LinkProbe(Random(seed))
        self.events: list[object] = []
        self.sizes: list[int] = []
        self.sent_at: list[float] = []
        self.busy = False
        self.delay: Callable[[], float] = lambda: RTT
        self._busy_at = Instant(0.0)
        self._deadline: Instant | None = None
        self._replies: list[tuple[Instant, int, int, float]] = []
        self._perform(self.probe.start(self.now))

    def run(self, seconds: float) -> None:
        """Let so many seconds pass."""
        end = Instant(self.now + seconds)
        for _ in range(100_000):
            wishes = [at for at, _, _, _ in self._replies]
            if self.busy:
                wishes.append(self._busy_at)
            if self._deadline is not None:
                wishes.append(self._deadline)
            if not wishes or min(wishes) > end:
                self.now = end
                return
            self.now = Instant(max(self.now, min(wishes)))
            due = [r for r in self._replies if r[0] <= self.now]
            self._replies = [r for r in self._replies if r[0] > self.now]
            for _, nonce, size, rtt in due:
                self._perform(self.probe.replied(nonce, size, rtt, self.now))
            if self.busy and self._busy_at <= self.now:
                self._busy_at = Instant(self.now + 1.0)
                self._perform(self.probe.traffic(self.now))
            if self._deadline is not None and self._deadline <= self.now:
                self._perform(self.probe.handle_timer(self.now))
        raise AssertionError("the probe spins")

    def too_big(self, size: int) -> None:
        self._perform(self.probe.too_big(size, self.now))

    def _perform(self, effects: list[LinkEffect]) -> None:
        for effect in effects:
            match effect:
                case SendProbe(nonce, size):
                    self.sizes.append(size)
                    self.sent_at.append(self.now)
                    if self.fits(size):
                        rtt = self.delay()
                        self._replies.append((Instant(self.now + rtt), nonce, size, rtt))
                case Arm(deadline):
                    self._deadline = deadline
                case Notify(event):
                    self.events.append(event)

    def begin_traffic(self) -> None:
        """The counters are looked at once a second, from some moment on."""
        self.busy, self._busy_at = True, Instant(self.now + 0.7)

    def until(self, so: Callable[[], bool], within: float) -> float:
        """Seconds until it is so."""
        began = self.now
        while not so():
            assert self.now - began < within, self.events[-5:]
            self.run(0.05)
        return self.now - began

    def happened(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]


def test_a_path_comes_up_with_its_first_answer_and_goes_down_when_silent() -> None:
    path = Path(lambda _: True)
    path.run(0.05)
    assert path.happened(LinkUp) == [LinkUp(RTT, BASE)]
    path.run(30)
    assert path.happened(LinkDown) == []
    path.fits = lambda _: False
    path.run(DOWN_AFTER + 0.1)
    (down,) = path.happened(LinkDown)
    assert isinstance(down, LinkDown)
    assert (down.reason, round(down.silence, 1)) == ("probes-unanswered", DOWN_AFTER)
    assert not path.probe.up
    path.fits = lambda _: True
    path.run(1.2)
    assert len(path.happened(LinkUp)) == 2


def test_a_path_without_an_answer_is_asked_each_second_and_never_down() -> None:
    path = Path(lambda _: False)
    path.run(20)
    assert path.events == []
    assert set(path.sizes) == {BEAT_SIZE}
    assert 18 <= len(path.sizes) <= 24


def test_the_round_trip_is_told() -> None:
    path = Path(lambda _: True)
    path.run(3)
    told = path.happened(Measured)
    assert len(told) >= 3
    assert all(abs(event.rtt - RTT) < 1e-9 for event in told)  # type: ignore[attr-defined]  # filtered


@given(st.one_of(st.sampled_from(LADDER), st.integers(FLOOR, 9000)))
@settings(max_examples=60)
def test_the_search_finds_what_fits(largest: int) -> None:
    """Within 8 octets, in seconds, and never announces what was not answered."""
    path = Path(lambda size: size <= largest)
    path.run(30)
    found = path.probe.segment
    assert found <= largest
    assert largest - found <= 8 or (largest > LADDER[-1] and found == LADDER[-1])
    answered = [e for e in path.happened(SegmentChanged) if e.segment not in (BASE, FLOOR)]  # type: ignore[attr-defined]  # filtered
    assert all(e.segment <= largest for e in answered)  # type: ignore[attr-defined]  # filtered


def test_sizes_that_paths_have_are_found_at_once() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(0.5)
    assert path.probe.segment == 1472


def test_the_kernels_word_ends_the_search_sooner() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(0.05)
    path.too_big(8952)
    path.too_big(1473)
    path.run(0.2)
    assert path.probe.segment == 1472
    assert max(path.sizes) <= 8952


real_sizes = st.sampled_from([600, 1000, 1232, 1300, 1372, 1452, 1472, 4000, 8952, 8972])


@given(real_sizes, real_sizes, st.integers(0, 1 << 32), st.floats(0, 60))
@settings(max_examples=60)
def test_a_path_that_shrinks_under_traffic_is_noticed_within_3_s(
    one: int, other: int, seed: int, rest: float
) -> None:
    """Nothing but silence is the hint, and no moment is a worse one than another."""
    large, small = max(one, other), min(one, other)
    path = Path(lambda size: size <= large, seed)
    path.run(20 + rest)
    assert large - path.probe.segment < STEP
    path.begin_traffic()
    path.run(2)
    path.fits = lambda size: size <= small
    path.until(lambda: path.probe.segment <= small, 3.0)
    path.run(10)
    assert small - path.probe.segment < STEP
    assert path.happened(LinkDown) == []


@given(real_sizes, real_sizes, st.integers(0, 1 << 32), st.floats(0, 60))
@settings(max_examples=60)
def test_a_path_that_grows_is_noticed_within_60_s(
    one: int, other: int, seed: int, rest: float
) -> None:
    large, small = max(one, other), min(one, other)
    path = Path(lambda size: size <= small, seed)
    path.run(20 + rest)
    path.fits = lambda size: size <= large
    path.until(lambda: large - path.probe.segment < STEP, 60.0)


def test_a_path_that_shrinks_at_rest_is_noticed_when_traffic_comes() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(30)
    path.fits = lambda size: size <= 1372
    path.begin_traffic()
    path.until(lambda: path.probe.segment <= 1372, 3.0)


def test_and_without_any_traffic_too() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(30)
    path.fits = lambda size: size <= 1372
    path.until(lambda: path.probe.segment <= 1372, REST_INTERVAL + 2)


def test_a_path_at_rest_costs_little() -> None:
    """Less than one full datagram in six seconds, a small one a second; one a second when busy."""
    path = Path(lambda size: size <= 1472)
    path.run(10)
    path.sizes.clear()
    path.run(600)
    assert 55 <= path.sizes.count(1472) <= 600 / REST_INTERVAL + 1
    assert path.sizes.count(1472 + STEP) <= 600 / GROWTH_INTERVAL + 1
    assert sum(path.sizes) / 600 < 1472 / 5 + BEAT_SIZE, "octets a second"
    path.begin_traffic()
    path.sizes.clear()
    path.run(60)
    assert path.sizes.count(1472) <= 60 / BUSY_INTERVAL + 1


def test_datagrams_that_small_ones_pass_and_useful_ones_do_not_end_the_path() -> None:
    """Smaller segments first; a path that carries none of use is down, and says why."""
    path = Path(lambda size: size <= 1472)
    path.run(5)
    path.fits = lambda size: size <= FLOOR
    path.begin_traffic()
    path.until(lambda: path.probe.segment == FLOOR, 5.0)
    path.run(5)
    assert path.happened(LinkDown) == []
    path.fits = lambda size: size < FLOOR
    path.run(6)
    (down,) = path.happened(LinkDown)
    assert isinstance(down, LinkDown)
    assert down.reason == "big-datagrams-lost"
    path.run(30)
    assert not path.probe.up
    assert len(path.happened(LinkUp)) == 1
    path.fits = lambda size: size <= 1472
    path.run(5)
    assert (path.probe.up, path.probe.segment) == (True, 1472)


def test_silence_is_no_black_hole() -> None:
    """A path that carries nothing is down for that reason, and its size is as good as before."""
    path = Path(lambda size: size <= FLOOR)
    path.run(20)
    path.begin_traffic()
    path.run(3)
    path.events.clear()
    path.fits = lambda _: False
    path.run(5)
    (down,) = path.happened(LinkDown)
    assert isinstance(down, LinkDown)
    assert down.reason == "probes-unanswered"
    assert path.happened(SegmentChanged) == []


def test_a_path_that_was_down_is_used_again_after_a_trial() -> None:
    """Longer for each fall that is remembered, and never so long that 60 s would not do."""
    path = Path(lambda _: True)
    path.run(5)
    assert path.probe.steady
    trials: list[float] = []
    for _ in range(5):
        path.fits = lambda _: False
        path.run(5)
        assert not path.probe.steady
        path.fits = lambda _: True
        path.until(lambda: path.probe.up, 1.5)
        trials.append(path.until(lambda: path.probe.steady, 1.2 * TRIAL_MAX))
    assert [round(2 * seconds / TRIAL_FIRST) for seconds in trials] == [1, 2, 4, 4, 4]
    assert 2 * max(trials) <= 1.2 * TRIAL_MAX


def test_a_path_that_loses_much_is_unsteady_and_one_that_loses_some_is_not() -> None:
    rng = Random(3)
    path = Path(lambda _: rng.random() >= 0.5)
    path.run(120)
    assert not path.probe.steady
    assert 0.3 < path.probe.loss <= 1
    path = Path(lambda _: rng.random() >= 0.1)
    path.run(600)
    assert path.happened(SteadyChanged) == []
    assert 0.04 < path.probe.loss < 0.2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("per_cent", [2, 5, 10, 20, 25, 30, 40, 50, 60])
def test_one_kind_of_weather_does_not_swing_a_path(per_cent: int, seed: int) -> None:
    """Steady loss and jitter for ten minutes: trusted or not, but not now this and now that."""
    rng = Random(seed)
    path = Path(lambda _: rng.random() * 100 >= per_cent, seed)
    path.delay = lambda: rng.uniform(0.001, 0.2)
    path.run(60)
    path.events.clear()
    path.run(600)
    changes = path.happened(SteadyChanged)
    assert len(changes) <= 1


def test_the_kernels_word_shrinks_a_path_at_once() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(10)
    path.fits = lambda size: size <= 1272
    path.too_big(1472)
    assert path.happened(SegmentChanged)[-1] == SegmentChanged(BASE)
    path.run(4)
    assert 1264 <= path.probe.segment <= 1272


def test_answers_nobody_asked_for_change_nothing() -> None:
    path = Path(lambda _: False)
    path.run(2)
    before = list(path.events)
    path._perform(path.probe.replied(12345, BEAT_SIZE, RTT, path.now))
    assert path.events == before
    assert not path.probe.up


def test_an_answer_with_another_size_proves_nothing() -> None:
    probe = LinkProbe(Random(4))
    (sent,) = [e for e in probe.start(Instant(0.0)) if isinstance(e, SendProbe)]
    assert probe.replied(sent.nonce, 1472, RTT, Instant(0.1)) == []
    assert probe.replied(sent.nonce, sent.size, RTT, Instant(0.1)) == [], "it was used up"


def test_a_new_path_is_asked_again_soon_then_less_and_less() -> None:
    """protocol.md 10.6: the other end may not be ready for the first probe."""
    path = Path(lambda _: False)
    path.run(10)
    gaps = [b - a for a, b in pairwise(path.sent_at)]
    assert gaps[0] <= 0.06
    assert all(b > 1.5 * a for a, b in pairwise(gaps[:5]))
    assert all(0.9 <= gap <= 1.1 for gap in gaps[5:])
    path.fits = lambda _: True
    path.until(lambda: path.probe.up, 1.2)


def test_the_first_round_trips_of_a_busy_host_are_no_cost() -> None:
    """Of few the shortest counts; of many the mean, so that one that was short once decides
    nothing."""
    path = Path(lambda _: True)
    delays = [0.05, 0.04, RTT, 0.06, 0.03, 0.05, RTT, 0.02]
    path.delay = lambda: delays.pop(0) if delays else RTT
    path.until(lambda: path.probe.cost_rtt == RTT, 4)
    path.run(10)
    assert path.probe.cost_rtt == pytest.approx(RTT)
    path.delay = lambda: 3 * RTT
    path.run(60)
    assert path.probe.cost_rtt == pytest.approx(3 * RTT, rel=0.1)


def test_a_late_timer_is_not_a_silent_path() -> None:
    """A host that did not run for ten seconds finds its answers behind the timer."""
    path = Path(lambda _: True)
    path.run(5)
    path.now = Instant(path.now + 10)
    path._perform(path.probe.handle_timer(path.now))
    assert path.happened(LinkDown) == []
    path.fits = lambda _: False
    path.run(DOWN_AFTER + 1.5)
    assert len(path.happened(LinkDown)) == 1


@given(st.integers(0, 1 << 32), st.integers(0, 30))
@settings(max_examples=40)
def test_loss_does_not_end_a_path_nor_lie_about_it(seed: int, per_cent: int) -> None:
    rng = Random(seed)
    path = Path(lambda size: size <= 1472 and rng.random() * 100 >= per_cent, seed)
    path.run(60)
    assert path.probe.segment <= 1472
    assert path.probe.up or per_cent > 10
    assert len(path.sizes) < 60 * 10, "a lossy path is not flooded with probes"
