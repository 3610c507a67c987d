"""Queues bounded in time, and a relay's time shared. docs/sleeve.md 11."""

from __future__ import annotations

from collections import Counter, deque
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.clock import Instant
from mesh.link import fairness
from mesh.link.fairness import FairShare, excesses
from mesh.link.lossmeter import LOOK
from mesh.link.queuetime import REST, WINDOW, QueueTime
from mesh.link.shedding import MOST_PAIRS, Shedding

TURN = 0.001


class Queue:
    """Turns of a millisecond at a queue that we take ``rate`` a second of."""

    def __init__(self) -> None:
        self.core = QueueTime(0.005, 32, 1000)
        self.now = 10.0
        self.set: list[int] = []

    def run(self, seconds: float, rate: float, *, emptied: bool = False) -> None:
        for _ in range(round(seconds / TURN)):
            self.now += TURN
            length = self.core.took(round(rate * TURN), emptied=emptied, now=Instant(self.now))
            if length is not None:
                self.set.append(length)


def test_a_queue_that_stands_is_as_long_as_what_is_taken_of_it_in_that_time() -> None:
    queue = Queue()
    queue.run(1, 40_000)
    assert queue.set == [200]
    assert queue.core.standing
    queue.run(1, 100_000)
    assert queue.set[-1] == 500
    queue.run(1, 1_000)
    assert queue.set[-1] == 32, "never so short that there is nothing to do"
    queue.run(1, 10_000_000)
    assert queue.set[-1] == 1000


def test_small_changes_are_not_worth_the_kernels_time() -> None:
    queue = Queue()
    for rate in (40_000, 44_000, 36_000, 41_000) * 5:
        queue.run(0.1, rate)
    assert queue.set == [200]


def test_a_queue_that_runs_empty_is_long_enough() -> None:
    queue = Queue()
    for _ in range(100):
        queue.run(WINDOW - 2 * TURN, 10_000)
        queue.run(TURN, 10_000, emptied=True)
    assert queue.set == []
    assert not queue.core.standing


def test_after_a_rest_there_is_room_for_bursts_again() -> None:
    queue = Queue()
    queue.run(0.1, 10_000)
    assert queue.set == [50]
    queue.run(REST / 2, 10_000, emptied=True)
    assert queue.set == [50]
    queue.run(REST, 10_000, emptied=True)
    assert queue.set == [50, 1000]


class Relay:
    """Takes what waits and sends it on, as far as a turn's time goes: to send costs four times as
    much as to take. ``capacity``: octets a second if it sends all it takes. ``sheds``: whether the
    kernel drops in front of the queue what it is told to."""

    def __init__(self, capacity: float, *, sheds: bool = False) -> None:
        self.core, self.capacity, self.now = FairShare(), capacity, 10.0
        self.shedding = Shedding() if sheds else None
        self.look_at = self.now
        self.waiting: deque[tuple[int, int]] = deque()
        self.left = 0.0
        self.sent: Counter[tuple[int, int]] = Counter()
        self.came: Counter[tuple[int, int]] = Counter()

    def run(self, seconds: float, rates: dict[tuple[int, int], float], rng: Random) -> None:
        self.sent.clear()
        self.came.clear()
        for _ in range(round(seconds / TURN)):
            self.now += TURN
            come = [
                pair
                for pair, rate in rates.items()
                for _ in range(int(rate * TURN / 1000 + rng.random()))
            ]
            rng.shuffle(come)
            self.came.update(come)
            if self.shedding is not None:
                shares = self.shedding.shares
                come = [pair for pair in come if rng.random() >= shares.get(pair, 0.0)]
            self.waiting.extend(come[: 500 - len(self.waiting)])
            self._turn()

    def _turn(self) -> None:
        self.left = min(0.0, self.left) + self.capacity * TURN / 1000
        while self.waiting and self.left > 0:
            pair = self.waiting.popleft()
            self.left -= 0.2
            if self.core.sends(pair, 1000):
                self.left -= 0.8
                self.sent[pair] += 1
        self.core.turn(standing=bool(self.waiting), now=Instant(self.now))
        if self.shedding is not None and self.now >= self.look_at:
            self.look_at = self.now + LOOK
            self.shedding.look(self.core.excess, standing=bool(self.waiting))


LIGHT, HEAVY, OTHER = (1, 3), (2, 3), (4, 3)


def test_who_sends_more_than_a_share_loses_the_rest_and_nobody_else() -> None:
    relay, rng = Relay(20e6), Random(1)
    rates = {LIGHT: 3e6, HEAVY: 30e6, OTHER: 5e6}
    relay.run(1, rates, rng)
    relay.run(3, rates, rng)
    for pair in (LIGHT, OTHER):
        assert relay.sent[pair] >= 0.98 * relay.came[pair]
    assert 1000 * relay.sent[HEAVY] / 3 > 5e6, "nor is it shut out"


def test_two_that_send_too_much_share_alike() -> None:
    relay, rng = Relay(20e6), Random(2)
    relay.run(1, {HEAVY: 50e6, OTHER: 20e6}, rng)
    relay.run(3, {HEAVY: 50e6, OTHER: 20e6}, rng)
    assert relay.sent[OTHER] == pytest.approx(relay.sent[HEAVY], rel=0.25)


def test_nothing_is_dropped_that_can_be_sent() -> None:
    relay, rng = Relay(200e6), Random(3)
    relay.run(1, {HEAVY: 100e6, LIGHT: 3e6}, rng)
    assert relay.sent == relay.came - Counter(relay.waiting)


def test_one_alone_may_have_it_all() -> None:
    """What it sends too much the queue drops, as any queue does."""
    relay, rng = Relay(20e6), Random(4)
    relay.run(1, {HEAVY: 100e6}, rng)
    assert 1000 * relay.sent[HEAVY] == pytest.approx(20e6, rel=0.01)


def test_when_the_flood_is_over_so_is_dropping() -> None:
    relay, rng = Relay(20e6), Random(5)
    relay.run(1, {HEAVY: 100e6, LIGHT: 3e6}, rng)
    relay.run(2, {HEAVY: 5e6, LIGHT: 3e6}, rng)
    relay.run(1, {HEAVY: 5e6, LIGHT: 3e6}, rng)
    assert relay.sent == relay.came - Counter(relay.waiting)


def test_a_flood_too_large_to_be_dropped_does_not_end_everything() -> None:
    relay, rng = Relay(20e6), Random(6)
    relay.run(4, {HEAVY: 400e6, LIGHT: 3e6}, rng)
    relay.run(1, {HEAVY: 400e6, LIGHT: 3e6}, rng)
    assert 1000 * relay.sent.total() >= 0.2 * 20e6


@pytest.mark.parametrize("flood", [100e6, 400e6])
def test_with_the_kernels_help_a_flood_costs_others_nothing_however_large(flood: float) -> None:
    """Without it a full queue drops of everybody's alike."""
    rates = {HEAVY: flood, LIGHT: 3e6}
    got = []
    for sheds in (True, False):
        relay, rng = Relay(20e6, sheds=sheds), Random(8)
        relay.run(1, rates, rng)
        relay.run(1, rates, rng)
        got.append(relay.sent[LIGHT] / relay.came[LIGHT])
        if sheds:
            assert 1000 * relay.sent[HEAVY] > 7e6, "nor is it shut out"
    assert got[0] > 0.95
    assert flood == 100e6 or got[1] < 0.5


def test_when_the_flood_is_over_the_kernel_drops_no_more() -> None:
    relay, rng = Relay(20e6, sheds=True), Random(9)
    relay.run(2, {HEAVY: 400e6, LIGHT: 3e6}, rng)
    assert relay.shedding is not None
    assert set(relay.shedding.shares) == {HEAVY}
    relay.run(3, {HEAVY: 5e6, LIGHT: 3e6}, rng)
    assert relay.shedding.shares == {}
    relay.run(1, {HEAVY: 5e6, LIGHT: 3e6}, rng)
    assert relay.sent == relay.came - Counter(relay.waiting)


def test_pairs_that_are_shed_are_bounded() -> None:
    shedding = Shedding()
    excess = {(n, 1): n / 40 for n in range(40)}
    assert shedding.look(excess, standing=True)
    assert set(shedding.shares) == {(n, 1) for n in range(40 - MOST_PAIRS, 40)}
    for _ in range(100):
        shedding.look({}, standing=False)
    assert shedding.shares == {}
    assert not shedding.look({}, standing=True), "nothing to do, no system call"


def test_two_hosts_alone_have_all_of_a_relay() -> None:
    """What comes back between them is little and nobody else's: nothing is dropped for its sake."""
    relay, rng = Relay(20e6, sheds=True), Random(6)
    relay.run(4, {(2, 3): 30e6, (3, 2): 0.2e6}, rng)
    assert not relay.core.excess
    assert relay.shedding is not None
    assert relay.shedding.shares == {}
    assert 1000 * sum(relay.sent.values()) / 4 > 0.98 * 20e6


def test_what_is_remembered_is_bounded() -> None:
    core = FairShare()
    for n in range(3 * fairness.MOST):
        assert core.sends((n, n), 100)
    assert len(core._came) == fairness.MOST


@given(
    st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(1, 10**9)),
    st.floats(1, 1e10),
)
def test_shares_fill_the_room_and_no_more(came: dict[tuple[int, int], int], room: float) -> None:
    excess = excesses(came, room)
    kept = {pair: octets * (1 - excess.get(pair, 0.0)) for pair, octets in came.items()}
    assert all(0 <= share <= 1 for share in excess.values())
    if excess:
        assert sum(kept.values()) == pytest.approx(room, rel=1e-3)
        level = max(kept.values())
        assert all(kept[pair] == pytest.approx(level, rel=1e-3) for pair in excess)
        assert all(came[pair] <= level * 1.001 for pair in came.keys() - excess.keys())
    else:
        assert sum(came.values()) <= room * 1.001
