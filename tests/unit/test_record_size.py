"""The size of records under loss: its decisions, and what they do to a transfer (10.9).

Why it is built so: sleeve.md 7.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import mean

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.clock import Instant
from mesh.link import recordsize as rs
from mesh.link.recordsize import RecordSize
from mesh.wire.sleeve import HEADER_SIZE, MAX_RECORD, TAG_SIZE
from tests.unit.lossy_path import LARGEST, Channel, Run, bursts, short_queue, single

T0 = Instant(100.0)
PAYLOAD = 1472 - HEADER_SIZE


def at(seconds: float) -> Instant:
    return Instant(T0 + seconds)


def told(size: RecordSize, share: float, *, begin: float = 0.0, seconds: float = 10.0) -> None:
    """Reports of a steady loss, twenty a second."""
    for n in range(int(seconds * 20)):
        size.reported(round(1000 * (1 - share)), round(1000 * share), at(begin + n / 20))


# ---- one size


def test_a_clean_path_has_the_largest_records() -> None:
    size = RecordSize()
    told(size, 0.0)
    assert (size.limit, size.together) == (MAX_RECORD, MAX_RECORD)
    assert size.datagrams == LARGEST


@pytest.mark.parametrize(
    ("share", "datagrams"), [(0.0, LARGEST), (0.001, 25), (0.004, 6), (0.01, 2), (0.05, 1), (1, 1)]
)
def test_size_follows_loss(share: float, datagrams: int) -> None:
    """10.9: what is lost of records is bounded, down to one datagram."""
    size = RecordSize()
    told(size, share)
    assert datagrams <= size.datagrams <= 1.5 * datagrams
    assert size.loss == pytest.approx(share, rel=0.15)


def test_a_single_loss_changes_nothing() -> None:
    size = RecordSize()
    size.reported(20, 1, T0)
    assert size.datagrams == LARGEST


def test_lost_probes_are_no_lost_records() -> None:
    """10.6: they share the records' numbers, and are too large on purpose."""
    size = RecordSize()
    for n in range(60):
        size.probed(1480, straight=True)
        size.reported(5, 1, at(n))
        assert size.datagrams == LARGEST
    for n in range(60):
        size.probed(64, straight=False)
        size.answered(64, straight=False)
        size.reported(5, 0, at(60 + n))
    assert size.datagrams == LARGEST
    told(size, 0.05, begin=120)
    assert size.datagrams == 1


def test_a_probe_that_came_was_not_the_one_that_is_missing() -> None:
    """10.9: a record was lost while the probe was under way."""
    size = RecordSize()
    for n in range(100):
        size.probed(64, straight=False)
        size.reported(20, 1, at(n / 20))
        size.answered(64, straight=False)
    assert size.datagrams <= 2


def test_a_probe_like_the_records_is_lost_like_them() -> None:
    """10.9: it went their way and was no larger."""
    size = RecordSize()
    size.follow("here", 1472)
    for n in range(100):
        size.probed(64 if n % 2 else 1472, straight=True)
        size.reported(20, 1, at(n / 20))
    assert size.datagrams <= 2


def test_answers_that_were_lost_excuse_nothing_for_long() -> None:
    """10.9: while reports come, a lost probe is in one of the next."""
    size = RecordSize()
    for _ in range(10):
        size.probed(1480, straight=True)
    told(size, 0.0, seconds=0.2)
    for n in range(4):
        size.age(at(1 + n / 4))
    size.reported(40, 8, at(2.0))
    assert size.datagrams <= 2


def test_probes_on_a_path_at_rest_are_remembered_until_somebody_looks() -> None:
    size = RecordSize()
    for n in range(10):
        size.probed(1480, straight=True)
        size.age(at(n * 18))
    size.reported(40, 10, at(200))
    assert size.datagrams == LARGEST


def test_what_the_former_path_lost_is_not_the_next_ones() -> None:
    """10.9: it is reported when something comes that went the new way."""
    size = RecordSize()
    size.follow("here", 1472)
    told(size, 0.0)
    size.follow("there", 1472)
    size.reported(20, 500, at(12.0))
    size.reported(100, 30, at(12.1))
    assert size.datagrams == LARGEST
    told(size, 0.05, begin=13.0)
    assert size.datagrams == 1


def test_the_first_report_of_heavy_loss_is_enough() -> None:
    """TCP that has lost whole windows sends too little to wait for more."""
    size = RecordSize()
    size.reported(60, 4, T0)
    assert size.datagrams <= 2


def test_what_came_is_heard_of_before_what_did_not() -> None:
    """One burst's datagrams fill a report, those missing of it come with the next."""
    size = RecordSize()
    told(size, 0.05)
    for n in range(20):
        size.reported(4000, 0, at(10 + n * 0.1))
        size.reported(0, 200, at(10.05 + n * 0.1))
        assert size.datagrams == 1


def test_some_seconds_of_quiet_forget_nothing() -> None:
    """What came is a thousand datagrams in all, and the next transfer begins a while later."""
    size = RecordSize()
    for n in range(10):
        size.reported(97, 3, at(n / 20))
    size.reported(40, 0, at(5))
    assert size.datagrams <= 4


def test_loss_that_has_gone_is_forgotten_in_steps() -> None:
    size = RecordSize()
    told(size, 0.05)
    seen = [1]
    for n in range(300):
        size.reported(1000, 0, at(20 + n / 20))
        if size.datagrams != seen[-1]:
            assert size.datagrams <= rs.STEP * seen[-1]
            seen.append(size.datagrams)
    assert seen[-1] == LARGEST
    assert seen == sorted(seen)


@pytest.mark.parametrize("segment", [576, 1200, 1232, 1472, 8972])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.01, 0.05])
def test_a_record_fills_whole_datagrams_of_its_path(segment: int, share: float) -> None:
    """10.9: the header, the tag and what the path carries are accounted for."""
    size = RecordSize()
    size.follow("here", segment)
    told(size, share)
    assert size.together <= size.limit <= MAX_RECORD
    if size.limit < MAX_RECORD:
        payload = segment - HEADER_SIZE
        assert -(-(size.limit + TAG_SIZE) // payload) == size.datagrams
        assert -(-(size.limit + 1 + TAG_SIZE) // payload) == size.datagrams + 1


def test_frames_that_only_wait_together_share_less() -> None:
    """Their flows are not TCP's one: at 0.1 % none of them loses more than 1 %."""
    size = RecordSize()
    told(size, 0.001)
    assert size.together <= 10 * 1.2 * PAYLOAD < size.limit


def test_another_path_starts_anew_and_another_segment_does_not() -> None:
    size = RecordSize()
    size.follow("here", 1472)
    told(size, 0.05)
    assert size.datagrams == 1
    size.follow("here", 1232)
    assert size.limit == 1232 - HEADER_SIZE - TAG_SIZE
    size.follow("there", 1232)
    assert (size.limit, size.together) == (MAX_RECORD, MAX_RECORD)
    assert size.loss == 0


def test_nothing_is_known_of_a_path_that_was_silent_for_long() -> None:
    size = RecordSize()
    told(size, 0.05)
    size.age(at(10 + rs.STALE - 2))
    assert size.datagrams == 1
    for n in range(20):
        size.age(at(10 + rs.STALE + n))
    assert size.datagrams == LARGEST


def test_a_size_that_failed_is_tried_again_ever_later() -> None:
    """The path takes no run above 20 datagrams: the pauses double, and each trial is short."""
    size, tries, last = RecordSize(), [], 0
    for n in range(20 * 3600):
        lost = max(0, size.datagrams - 20)
        size.reported(1000, 1000 * lost // size.datagrams, at(n / 20))
        if size.datagrams > 20 >= last:
            tries.append(n / 20)
        last = size.datagrams
        assert size.datagrams >= 16 or n < 20, "what was lost of the large says nothing of these"
    assert sum(at < 60 for at in tries) <= 8
    assert sum(at > 3000 for at in tries) <= 4
    assert len(tries) < 40


# ---- liars


@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF),
                          st.floats(0, 1e6)), max_size=60))  # fmt: skip
def test_no_report_whatever_leaves_the_bounds(reports: list[tuple[int, int, float]]) -> None:
    """10.9: any numbers at any time, also from before."""
    size = RecordSize()
    size.follow("here", 1472)
    for came, missing, when in reports:
        size.reported(came, missing, Instant(when))
        assert 1 <= size.datagrams <= LARGEST
        assert PAYLOAD - TAG_SIZE <= size.together <= size.limit <= MAX_RECORD
        assert 0 <= size.loss <= 1


def test_one_report_weighs_no_more_than_what_can_have_been_sent() -> None:
    """A peer that says once that everything was lost is believed, and no longer than another."""
    size = RecordSize()
    size.reported(0, 0xFFFFFFFF, T0)
    assert size.datagrams == 1
    told(size, 0.0, begin=1.0, seconds=20)
    assert size.datagrams == LARGEST
    size.reported(0xFFFFFFFF, 0, at(22))
    told(size, 0.05, begin=22.0, seconds=0.3)
    assert size.datagrams <= 2


def test_a_flood_of_good_news_grows_nothing_faster() -> None:
    size = RecordSize()
    told(size, 0.05)
    for _ in range(10_000):
        size.reported(0xFFFFFFFF, 0, at(20))
    assert size.datagrams == rs.STEP


# ---- transfers

IID: Callable[[Random, float], Channel] = single


def five(chance: Random, share: float) -> Channel:
    return bursts(chance, share, 5.0)


PATHS = [(0.0001, 10.0, 1), (0.001, 10.0, 1), (0.02, 40.0, 2), (0.1, 150.0, 2)]
"""Round trip, seconds of a transfer, transfers."""


def goodput(kind: Callable[[Random, float], Channel], share: float, rtt: float, seconds: float,
            times: int, fixed: int | None = None) -> float:  # fmt: skip
    return mean(
        Run(kind(Random(seed), share), rtt, fixed).go(seconds) for seed in range(1, times + 1)
    )


@pytest.mark.parametrize(("rtt", "seconds", "times"), PATHS)
@pytest.mark.parametrize("share", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("kind", [IID, five])
def test_lossy_transfers_are_no_slower_than_with_single_datagrams(
    kind: Callable[[Random, float], Channel], share: float, rtt: float, seconds: float, times: int
) -> None:
    """10.9, beginning with the largest records, that is with the worst."""
    adapted = goodput(kind, share, rtt, seconds, times)
    assert adapted >= 0.95 * goodput(kind, share, rtt, seconds, times, fixed=1)


@pytest.mark.parametrize(("rtt", "seconds", "times"), PATHS[:3])
def test_clean_transfers_are_as_fast_as_with_the_largest_records(
    rtt: float, seconds: float, times: int
) -> None:
    adapted = goodput(IID, 0.0, rtt, seconds, 1)
    assert adapted >= 0.95 * goodput(IID, 0.0, rtt, seconds, 1, fixed=LARGEST)


def test_convergence_and_recovery() -> None:
    """Within two seconds of the loss at its size, within ten of its end at the largest."""
    run = Run(single(Random(1), 0.0), 0.001)
    run.go(5)
    assert run.size.datagrams == LARGEST
    run.channel = single(Random(2), 0.05)
    run.go(2)
    assert run.size.datagrams <= 2
    run.channel = single(Random(4), 0.0)
    run.go(10)
    assert run.size.datagrams == LARGEST


@pytest.mark.parametrize(
    ("share", "rtt", "seconds", "seed"),
    [(0.001, 0.001, 2, 1), (0.001, 0.001, 2, 2), (0.003, 0.02, 5, 2), (0.01, 0.02, 3, 1)],
)
def test_nothing_outlives_a_long_loss(share: float, rtt: float, seconds: float, seed: int) -> None:
    """10.9: neither an average that fades slowly nor a pause for a size that failed by chance."""
    run = Run(single(Random(seed), share), rtt)
    run.go(45)
    assert run.size.datagrams < LARGEST
    run.channel = single(Random(9), 0.0)
    run.go(seconds)
    assert run.size.datagrams == LARGEST


@pytest.mark.parametrize("rtt", [0.0001, 0.001, 0.02])
def test_steady_loss_makes_no_oscillation(rtt: float) -> None:
    """At 1 %: hardly any octet goes out in records of more than twice the size that is right."""
    run = Run(single(Random(9), 0.01), rtt)
    run.go(5)
    before, sent_large = run.sent, 0
    for _ in range(200):
        sent = run.sent
        run.go(0.1)
        sent_large += (run.sent - sent) if run.size.datagrams > 5 else 0
    assert sent_large <= 0.02 * (run.sent - before)


def test_a_path_that_takes_no_long_runs() -> None:
    """Growing into its queue again and again costs little of a transfer."""
    run = Run(short_queue(20), 0.001)
    run.go(20)
    best = Run(short_queue(20), 0.001, fixed=20).go(20)
    assert run.go(60) >= 0.7 * best
