"""Heartbeats of a kernel path, second by second (docs/protocol.md 14.5)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.link.heartbeat import (
    SMALL,
    Heartbeat,
    HeartbeatEffect,
    SendHeartbeat,
    Unwell,
    Well,
)
from mesh.wire.heartbeat import ANSWER, QUESTION, Beat

FULL = 1400
STEP = 0.01
ALL: Callable[[int], bool] = lambda _size: True  # noqa: E731  # named for what it lets pass
NOTHING: Callable[[int], bool] = lambda _size: False  # noqa: E731
SMALL_ONES: Callable[[int], bool] = lambda size: size == SMALL  # noqa: E731


class Path:
    """A path with a round trip, that carries what ``passes`` lets through."""

    def __init__(self, seed: int = 1, passes: Callable[[int], bool] = ALL) -> None:
        self.now, self.rtt = Instant(100.0), 0.02
        self.heart = Heartbeat(Random(seed), FULL)
        self.passes = passes
        self.sent: list[tuple[float, int]] = []
        self.events: list[tuple[float, Well | Unwell]] = []
        self._due: Instant | None = None
        self._answers: list[tuple[float, int, int]] = []
        self._perform(self.heart.start(self.now))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = Instant(self.now + STEP)
            for answer in [a for a in self._answers if a[0] <= self.now]:
                self._answers.remove(answer)
                self._perform(self.heart.answered(answer[1], answer[2], self.now))
            if self._due is not None and self.now >= self._due:
                self._perform(self.heart.handle_timer(self.now))

    def _perform(self, effects: list[HeartbeatEffect]) -> None:
        for effect in effects:
            match effect:
                case SendHeartbeat(nonce, size):
                    self.sent.append((self.now, size))
                    if self.passes(size):
                        self._answers.append((self.now + self.rtt, nonce, size))
                case Arm(deadline):
                    self._due = deadline
                case Notify(event):
                    self.events.append((self.now, event))

    @property
    def words(self) -> list[str]:
        return [event.reason for _, event in self.events]


def test_a_path_begins_with_its_first_answer() -> None:
    """protocol.md 14.5: nothing is to be proven that never failed."""
    path = Path()
    path.run(0.2)
    assert path.heart.well
    assert path.words == ["heartbeats-answered"]


def test_at_rest_one_heartbeat_a_second() -> None:
    """protocol.md 14.5: every second, give or take a tenth, full size only."""
    path = Path()
    path.run(1)
    path.sent.clear()
    path.run(100)
    assert 90 <= len(path.sent) <= 112
    assert {size for _, size in path.sent} == {FULL}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("passes", "reason"), [(NOTHING, "heartbeats-unanswered"), (SMALL_ONES, "big-frames-lost")]
)
def test_what_is_eaten_ends_a_path_within_three_seconds(
    seed: int, passes: Callable[[int], bool], reason: str
) -> None:
    """protocol.md 14.5: 2.4 s after the last answer, with the reason; some time is for routes."""
    path = Path(seed)
    path.run(5 + seed / 20)
    path.passes = passes
    path.run(2.5)
    assert not path.heart.well
    assert path.words[-1] == reason
    silence = path.events[-1][1]
    assert isinstance(silence, Unwell)
    assert 2.3 < silence.silence < 2.5


@pytest.mark.parametrize("outage", [5, 60])
def test_a_path_is_back_within_a_minute(outage: float) -> None:
    """protocol.md 14.5: on trial first, then proven."""
    path = Path()
    path.run(5)
    path.passes = NOTHING
    path.run(outage)
    path.passes = ALL
    healed = path.now
    path.run(3)
    assert path.words[-1] == "on-trial", "it is not trusted at once"
    path.run(57)
    assert path.words[-1] == "proven"
    assert path.events[-1][0] < healed + 15


def test_every_fall_makes_the_trial_longer_but_never_a_minute() -> None:
    path = Path()
    took = []
    for _ in range(4):
        path.run(5)
        path.passes = NOTHING
        path.run(4)
        path.passes = ALL
        healed = path.now
        path.run(60)
        assert path.heart.well
        took.append(path.events[-1][0] - healed)
    assert took[0] < took[1] < took[2]
    assert max(took) < 60


def test_a_path_that_loses_half_is_left() -> None:
    """protocol.md 14.5, 8.6: `lossy`, and steady loss does not bring it back."""
    path, rng = Path(), Random(5)
    path.run(2)
    path.passes = lambda _size: rng.random() > 0.6
    path.run(200)
    assert not path.heart.well
    assert "lossy" in path.words or "heartbeats-unanswered" in path.words


def test_a_timer_that_is_late_is_not_silence() -> None:
    """protocol.md 9.3: who did not run could not hear."""
    path = Path()
    path.run(5)
    path._answers.clear()
    path.now = Instant(path.now + 10)
    path._perform(path.heart.handle_timer(path.now))
    path.run(0.5)
    assert path.heart.well


def test_only_what_was_asked_counts_and_only_whole() -> None:
    """protocol.md 14.5: an answer of another size proves nothing, nor one that comes twice."""
    path = Path(passes=NOTHING)
    path.run(0.5)
    heart = path.heart
    (effect,) = [e for e in heart.start(path.now) if isinstance(e, SendHeartbeat)][:1]
    assert heart.answered(effect.nonce, FULL - 1, path.now) == []
    assert heart.answered(effect.nonce, FULL, path.now) == [], "it was used up"
    assert heart.answered(12345, FULL, path.now) == []
    small = [e for e in heart.start(path.now) if isinstance(e, SendHeartbeat)][-1]
    assert small.size == SMALL
    assert heart.answered(small.nonce, FULL, path.now) == [], "what was small is not large"
    assert not heart.up


@given(st.binary(max_size=100))
def test_any_octets(data: bytes) -> None:
    try:
        beat = Beat.decode(data)
    except MalformedMessageError:
        return
    assert beat.size == len(data)
    assert beat.kind in (QUESTION, ANSWER)


def test_a_heartbeat_is_as_long_as_it_says() -> None:
    """protocol.md 14.5."""
    data = Beat(QUESTION, 0x0102030405060708, 70).encode()
    assert data == bytes.fromhex("01 0102030405060708 0046") + bytes(59)
    assert Beat.decode(data) == Beat(QUESTION, 0x0102030405060708, 70)
    for wrong in (data[:-1], data + b"\0", b"\x03" + data[1:], b""):
        with pytest.raises(MalformedMessageError):
            Beat.decode(wrong)
