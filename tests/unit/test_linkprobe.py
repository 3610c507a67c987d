"""The direct path's probe: up, down, how fast, how large. docs/protocol.md 10.6."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import hypothesis.strategies as st
from hypothesis import given, settings

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.link.linkprobe import (
    BASE,
    BEAT_SIZE,
    DOWN_AFTER,
    FULL_INTERVAL,
    LADDER,
    SEARCH_AGAIN,
    SIZE_TRIES,
    LinkDown,
    LinkEffect,
    LinkProbe,
    LinkUp,
    Measured,
    SegmentChanged,
    SendProbe,
)

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
        self._deadline: Instant | None = None
        self._replies: list[tuple[Instant, int, int]] = []
        self._perform(self.probe.start(self.now))

    def run(self, seconds: float) -> None:
        """Let so many seconds pass."""
        end = Instant(self.now + seconds)
        for _ in range(100_000):
            wishes = [at for at, _, _ in self._replies]
            if self._deadline is not None:
                wishes.append(self._deadline)
            if not wishes or min(wishes) > end:
                self.now = end
                return
            self.now = Instant(max(self.now, min(wishes)))
            due = [r for r in self._replies if r[0] <= self.now]
            self._replies = [r for r in self._replies if r[0] > self.now]
            for _, nonce, size in due:
                self._perform(self.probe.replied(nonce, size, RTT, self.now))
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
                        self._replies.append((Instant(self.now + RTT), nonce, size))
                case Arm(deadline):
                    self._deadline = deadline
                case Notify(event):
                    self.events.append(event)

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
    assert path.happened(LinkDown) == [LinkDown("probes-unanswered")]
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


@given(st.one_of(st.sampled_from(LADDER), st.integers(BASE, 9000)))
@settings(max_examples=60)
def test_the_search_finds_what_fits(largest: int) -> None:
    """Within 8 octets, in seconds, and never announces what was not answered."""
    path = Path(lambda size: size <= largest)
    path.run(30)
    found = path.probe.segment
    assert found <= largest
    assert largest - found <= 8 or (largest > LADDER[-1] and found == LADDER[-1])
    assert all(e.segment <= largest for e in path.happened(SegmentChanged))  # type: ignore[attr-defined]  # filtered


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


def test_a_path_that_shrinks_is_noticed_and_one_that_grows_is_too() -> None:
    """A black hole takes the segment back; more is asked for again ten minutes later."""
    path = Path(lambda size: size <= 1472)
    path.run(10)
    path.fits = lambda size: size <= 1372
    path.run(20)
    assert path.probe.segment == 1372
    assert path.happened(LinkDown) == []
    path.fits = lambda size: size <= 8972
    path.run(SEARCH_AGAIN - 60)
    assert path.probe.segment == 1372
    path.run(120)
    assert path.probe.segment == 8972


def test_full_sizes_are_rare_at_rest_and_black_holes_found_all_the_same() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(10)
    path.sizes.clear()
    path.run(60)
    assert 8 <= path.sizes.count(1472) <= 12
    assert 50 <= path.sizes.count(BEAT_SIZE) <= 70
    path.fits = lambda size: size <= 1300
    path.run(FULL_INTERVAL + (SIZE_TRIES + 1) * 1.1)
    assert path.probe.segment < 1300


def test_the_kernels_word_shrinks_a_path_at_once() -> None:
    path = Path(lambda size: size <= 1472)
    path.run(10)
    path.fits = lambda size: size <= 1272
    path.too_big(1472)
    assert path.happened(SegmentChanged)[-1] == SegmentChanged(BASE)
    path.run(3)
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


def test_a_late_timer_is_not_a_silent_path() -> None:
    """A host that did not run for ten seconds finds its answers behind the timer."""
    path = Path(lambda _: True)
    path.run(5)
    path.now = Instant(path.now + 10)
    path._perform(path.probe.handle_timer(path.now))
    assert path.happened(LinkDown) == []
    path.fits = lambda _: False
    path.run(DOWN_AFTER + 1.5)
    assert path.happened(LinkDown) == [LinkDown("probes-unanswered")]


@given(st.integers(0, 1 << 32), st.integers(0, 30))
@settings(max_examples=40)
def test_loss_does_not_end_a_path_nor_lie_about_it(seed: int, per_cent: int) -> None:
    rng = Random(seed)
    path = Path(lambda size: size <= 1472 and rng.random() * 100 >= per_cent, seed)
    path.run(60)
    assert path.probe.segment <= 1472
    assert path.probe.up or per_cent > 20
    assert len(path.sizes) < 60 * 10, "a lossy path is not flooded with probes"
