"""The data path's small machines: windows, tables, sizes, modes.

Why it is built so: sleeve.md 4, 6 and 9.
"""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.clock import Instant
from mesh.link import macs as mac_module
from mesh.link import reassembly as ra
from mesh.link.allowance import Allowance
from mesh.link.broadcast import COUNTER_BITS, MAX_INCARNATIONS, Broadcasts
from mesh.link.macs import AGE, LOCAL, MacTable
from mesh.link.probes import MAX_PROBES, Probes, body, parse
from mesh.link.receivemode import BEFORE, IDLE_CALLS, LOAD, TRIAL_CALLS, TRY_AGAIN, ReceiveMode
from mesh.link.replay import WINDOW, ReplayWindow
from mesh.link.slotsize import FIRST_LOOK, SlotSize
from mesh.link.slotsize import WINDOW as SLOT_WINDOW
from mesh.names import ShortID

A, B = ShortID(1), ShortID(2)
T0 = Instant(100.0)


def at(seconds: float) -> Instant:
    return Instant(T0 + seconds)


# ---- replay window


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=200), st.integers(0, 1 << 62))
def test_replay_window_against_a_set(numbers: list[int], base: int) -> None:
    """10.4: each number once, none that is a window behind the highest."""
    window, seen, top = ReplayWindow(), set(), 0
    for number in (base + n for n in numbers):
        expected = number not in seen and number > top - WINDOW
        assert window.saw(number) is not expected
        assert window.accept(number) is expected
        if expected:
            seen.add(number)
            top = max(top, number)


@given(st.sets(st.integers(1, 3 * WINDOW), min_size=1, max_size=200), st.integers(0, 3 * WINDOW),
       st.integers(0, 4 * WINDOW))  # fmt: skip
def test_missing_numbers_against_a_set(numbers: set[int], after: int, upto: int) -> None:
    """10.9: those that were not accepted and are not forgotten."""
    window = ReplayWindow()
    for number in sorted(numbers):
        window.accept(number)
    top = max(numbers)
    assert window.top == top
    assert window.first == min(n for n in numbers if n > top - WINDOW)
    span = range(max(after, top - WINDOW) + 1, min(upto, top) + 1)
    assert window.missing(after, upto) == sum(n not in numbers for n in span)


def test_numbers_in_clear_may_begin_again() -> None:
    """Nobody vouches for them: a sender that started anew counts from 1."""
    window = ReplayWindow()
    window.note(3 * WINDOW)
    window.note(1)
    assert (window.first, window.top) == (1, 1)


def test_replay_window_is_8192_wide() -> None:
    """10.4."""
    window = ReplayWindow()
    assert window.accept(10_000)
    assert window.accept(10_000 - 8191)
    assert not window.accept(10_000 - 8192)
    assert not window.accept(10_000 - 8193)


def test_replay_window_after_a_round() -> None:
    """10.4: numbers share their places with those a window before."""
    window = ReplayWindow()
    assert window.accept(1)
    assert window.accept(WINDOW)
    assert window.accept(WINDOW + 2)
    assert window.accept(WINDOW + 1), "1 was seen, and is forgotten"
    assert not window.accept(WINDOW + 1)


# ---- broadcasts


def test_a_broadcast_is_accepted_once() -> None:
    """10.7."""
    ours, theirs = Broadcasts(7), Broadcasts(9)
    numbers = [ours.number() for _ in range(100)]
    assert [theirs.accept(A, n) for n in numbers + numbers] == [True] * 100 + [False] * 100
    assert theirs.accept(B, numbers[0]), "numbers are an origin's own"


def test_a_worker_that_starts_anew_is_heard() -> None:
    """10.7: whatever its new incarnation is, lower or higher; and its past is still known."""
    listener = Broadcasts(0)
    old = [Broadcasts(500).number() for _ in range(1)]
    assert listener.accept(A, old[0])
    assert listener.accept(A, Broadcasts(3).number())
    assert listener.accept(A, Broadcasts(900).number())
    assert not listener.accept(A, old[0])
    for incarnation in range(1000, 1000 + MAX_INCARNATIONS):
        assert listener.accept(A, (incarnation << COUNTER_BITS) + 1)
    assert len(listener._seen[A]) == MAX_INCARNATIONS
    listener.forget(A)
    assert not listener._seen


# ---- addresses


def mac(n: int) -> bytes:
    return bytes((2, 0)) + n.to_bytes(4, "big")


def test_addresses_are_learned_moved_and_aged() -> None:
    """10.8."""
    table = MacTable()
    table.learn(mac(1), A, T0)
    table.learn(mac(2), LOCAL, T0)
    assert table.places == {mac(1): A, mac(2): LOCAL}
    table.learn(mac(1), B, at(1))
    assert table.places[mac(1)] == B
    table.touched.add(mac(2))
    table.age(at(AGE - 1))
    table.age(at(AGE + 2))
    assert table.places == {mac(2): LOCAL}, "what was seen lately stays"
    table.age(at(2 * AGE))
    assert table.places == {}


def test_group_addresses_are_nobodys() -> None:
    table = MacTable()
    table.learn(b"\x01" + bytes(5), A, T0)
    assert table.places == {}


def test_a_flood_of_addresses_pushes_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mac_module, "MAX_MACS", 10)
    table = MacTable()
    for n in range(25):
        table.learn(mac(n), A, at(n))
    assert set(table.places) == {mac(n) for n in range(15, 25)}
    table.forget_place(A)
    assert table.places == {}
    assert table._seen == {}


# ---- reassembly


def test_records_come_together_in_any_order() -> None:
    """10.2: interleaved, reordered, duplicated."""
    pool = ra.Reassembly()
    rng = random.Random(3)
    pieces = {
        (A, 1, seq): [bytes((seq, n)) * 10 for n in range(5)] for seq in range(1, 9)
    }  # fmt: skip
    order = [(key, n) for key in pieces for n in range(5)]
    rng.shuffle(order)
    whole = {}
    for key, n in order:
        for _ in range(2 if key not in whole else 1):
            got = pool.add(key, 5, {n: pieces[key][n]}, T0)
            if got is not None:
                whole[key] = got
                break
    assert whole == {key: b"".join(parts) for key, parts in pieces.items()}
    pool.age(at(ra.AGE))
    assert not pool.take_lost()


def test_a_total_that_changes_is_ignored() -> None:
    pool = ra.Reassembly()
    key = (A, 1, 1)
    assert pool.add(key, 2, {0: b"a"}, T0) is None
    assert pool.add(key, 3, {1: b"x"}, T0) is None
    assert pool.add(key, 2, {1: b"b"}, T0) == b"ab"


def test_records_that_wait_in_vain_are_given_up() -> None:
    """10.9: and counted, by their source."""
    pool = ra.Reassembly()
    for seq in range(3):
        pool.add((A, 1, seq), 2, {0: b"a"}, T0)
    pool.add((B, 1, 0), 2, {0: b"a"}, at(0.3))
    pool.age(at(ra.AGE))
    assert pool.take_lost() == {A: 3}
    pool.forget(B)
    assert pool.take_lost() == {B: 1}
    assert pool._octets == 0
    assert not pool._per_peer


def test_what_waits_for_long_is_torn_once() -> None:
    """10.9: records and the datagrams missing of them, and only what is late."""
    pool = ra.Reassembly()
    for index in range(3):
        pool.add((A, 1, 1), 5, {index: b"a"}, T0)
    pool.add((A, 1, 2), 5, {0: b"a"}, T0)
    pool.add((B, 1, 1), 2, {0: b"b"}, at(0.04))
    assert pool.take_torn(at(0.06), 0.05) == {A: (2, 6)}
    assert pool.take_torn(at(0.06), 0.05) == {}
    assert pool.add((B, 1, 1), 2, {1: b"b"}, at(0.06)) == b"bb"
    pool.age(at(10))
    assert pool.take_torn(at(10), 0.05) == {}


def test_what_is_given_up_before_it_is_late_is_torn() -> None:
    """10.9: at a high rate of loss there is no room to wait."""
    pool = ra.Reassembly()
    for seq in range(ra.MAX_PARTIAL_PER_PEER + 10):
        pool.add((A, 1, seq), 5, {0: b"a"}, T0)
    assert pool.take_torn(T0, 0.05) == {A: (10, 40)}


def test_one_peer_cannot_take_anothers_room() -> None:
    """10.2: bounded for each peer and in all."""
    pool = ra.Reassembly()
    pool.add((B, 1, 0), 2, {0: b"b"}, T0)
    for seq in range(1000):
        pool.add((A, 1, seq), 2, {0: b"a"}, T0)
    assert pool._per_peer == {A: ra.MAX_PARTIAL_PER_PEER, B: 1}
    assert pool.add((B, 1, 0), 2, {1: b"b"}, T0) == b"bb"
    for peer in range(10, 40):
        for seq in range(50):
            pool.add((ShortID(peer), 1, seq), 2, {0: b"a"}, T0)
    assert len(pool._partial) == ra.MAX_PARTIAL


def test_records_begun_by_one_datagram_go_first() -> None:
    """10.2: who begins many records costs none of which more came."""
    pool = ra.Reassembly()
    pool.add((A, 1, 0), 3, {0: b"a"}, T0)
    pool.add((A, 1, 0), 3, {1: b"b"}, T0)
    for seq in range(1, 1000):
        pool.add((A, 1, seq), 3, {0: b"x"}, T0)
    assert len(pool) == ra.MAX_PARTIAL_PER_PEER
    assert pool.add((A, 1, 0), 3, {2: b"c"}, T0) == b"abc"
    for seq in range(1000, 2000):
        pool.add((A, 1, seq), 3, {0: b"x", 1: b"y"}, T0)
    assert len(pool) == ra.MAX_PARTIAL_PER_PEER
    pool.age(at(ra.AGE))
    assert not pool._begun


def test_several_datagrams_of_a_record_at_once() -> None:
    """10.2: whole at once, or what is missing later; what came before stays."""
    pool = ra.Reassembly()
    assert pool.add((A, 1, 1), 3, {2: b"c", 0: b"a", 1: b"b"}, T0) == b"abc"
    assert len(pool) == 0
    assert pool.add((A, 1, 2), 4, {3: b"d", 1: b"b"}, T0) is None
    assert pool.add((A, 1, 2), 4, {1: b"x", 2: b"c", 0: b"a"}, T0) == b"abcd"
    assert len(pool) == 0
    assert pool._octets == 0


def test_octets_are_bounded_also_within_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ra, "MAX_OCTETS", 5_000)
    pool = ra.Reassembly()
    for index in range(199):
        for seq in range(4):
            pool.add((A, 1, seq), 200, {index: bytes(100)}, T0)
            assert pool._octets <= 5_000
    assert pool.take_lost()[A] > 0
    assert pool.add((A, 2, 1), 2, {0: b"a"}, T0) is None
    assert pool.add((A, 2, 1), 2, {1: b"b"}, T0) == b"ab"


# ---- sizes and modes


def test_slots_follow_what_comes() -> None:
    """10.2."""
    sizes = SlotSize(1448)
    assert [sizes.saw(1208) for _ in range(FIRST_LOOK)].count(1208) == 1
    assert sizes.current == 1208
    # A peer with another size now and then turns nothing round.
    for _ in range(SLOT_WINDOW):
        assert sizes.saw(1208, 20) is None
        assert sizes.saw(8948) is None
    # And no size that is no path's.
    assert all(sizes.saw(n) is None for n in (0, 1, 255, 8949) for _ in range(500))


def test_slots_need_a_clear_majority_to_change() -> None:
    sizes = SlotSize(1448)
    changes = [c for _ in range(2000) for c in (sizes.saw(1448, 10), sizes.saw(1208, 12)) if c]
    assert changes == []
    changes = [c for _ in range(2000) for c in (sizes.saw(1448, 1), sizes.saw(1208, 12)) if c]
    assert changes == [1208]


def test_receiving_by_runs_is_tried_under_load_and_kept_where_it_pays() -> None:
    """protocol.md 10.11."""
    mode = ReceiveMode()
    mode.batch(7)
    assert not mode.consider(T0, drained=True)
    mode.batch(LOAD)
    assert mode.consider(T0, drained=True)
    assert mode.coalesced
    assert mode.just_changed(at(0.1))
    for n in range(3 * TRIAL_CALLS):
        mode.run(44, 46)
        assert not mode.consider(at(1 + n), drained=True)
    # Acknowledgements among them say nothing.
    for _ in range(IDLE_CALLS // 4):
        mode.run(1, 1)
    mode.run(44, 46)
    assert not mode.consider(at(200), drained=True)


def test_receiving_by_runs_ends_where_it_does_not_pay() -> None:
    mode = ReceiveMode()
    mode.batch(LOAD)
    assert not mode.consider(T0, drained=False), "what waits would be cut off"
    assert mode.consider(T0, drained=True)
    for _ in range(BEFORE):  # what lay there from before says nothing
        mode.run(1, 46)
    assert not mode.consider(T0, drained=True)
    for _ in range(TRIAL_CALLS):
        mode.run(1, 46)
    # Datagrams come faster than one call each takes: the queue will never be empty.
    assert mode.consider(at(1), drained=False)
    assert not mode.coalesced
    mode.batch(LOAD)
    assert not mode.consider(at(1 + TRY_AGAIN - 0.1), drained=True)
    assert mode.consider(at(1 + TRY_AGAIN), drained=True)


def test_short_runs_that_wait_are_not_cut_off() -> None:
    """10.11: where a path coalesces a little, the change waits until nothing does."""
    mode = ReceiveMode()
    mode.batch(LOAD)
    assert mode.consider(T0, drained=True)
    for _ in range(BEFORE + TRIAL_CALLS):
        mode.run(3, 46)
    assert not mode.consider(at(1), drained=False)
    assert mode.consider(at(1), drained=True)


def test_receiving_by_runs_ends_when_there_is_no_bulk() -> None:
    mode = ReceiveMode()
    mode.batch(LOAD)
    assert mode.consider(T0, drained=True)
    for _ in range(IDLE_CALLS):
        mode.run(1, 1)
    assert mode.consider(at(1), drained=True)
    assert not mode.coalesced
    mode.batch(LOAD)
    assert mode.consider(at(1.1), drained=True), "the path was not found wanting"
    mode.refused()
    mode.batch(10 * LOAD)
    assert not mode.consider(at(1e9), drained=True)


def test_allowance() -> None:
    allowance = Allowance(3)
    assert [allowance.take() for _ in range(5)] == [True, True, True, False, False]
    allowance.refill()
    assert allowance.take()


# ---- probes


def test_probes_are_answered_once_and_with_their_size() -> None:
    """10.6."""
    probes = Probes()
    probes.sent(1, 1472, T0)
    assert probes.answered(1, 1232, at(1)) is None
    assert probes.answered(2, 1472, at(1)) is None
    assert probes.answered(1, 1472, at(0.25)) == 0.25
    assert probes.answered(1, 1472, at(1)) is None


def test_probes_that_are_out_are_bounded() -> None:
    probes = Probes()
    for n in range(MAX_PROBES + 10):
        probes.sent(n, 64, T0)
    assert probes.answered(9, 64, T0) is None
    assert probes.answered(10, 64, T0) == 0.0


def test_probe_octets() -> None:
    """10.6."""
    assert body(0x0102, 1472, octets=12).hex(" ") == "00 00 00 00 00 00 01 02 05 c0 00 00"
    assert parse(body(7, 64)) == (7, 64)
