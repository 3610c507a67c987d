"""Ranges, space, messages: the allocator's parts by themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ipam.address import Address, AddressRange
from ipam.exclusions import MAX_EXCLUSIONS, Excluded, Exclusion, parse_exclusions
from ipam.messages import Message, MessageKind, decode
from ipam.report import MAX_ASTRAY, MAX_OWNED, MAX_PLACES, Report
from ipam.space import Space
from mesh.clock import Instant
from mesh.errors import MalformedMessageError, OperatorError

SMALL = AddressRange.parse("10.0.0.0/28")
T0 = Instant(0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0",
        "10.0.0.1/24",
        "10.0.0.0/31",
        "x/8",
        "10.0.0.0/33",
        "fd00::1/64",
        "::/0",
        "0.0.0.0/0",
        "127.1.0.0/16",
        "169.254.0.0/24",
        "224.0.0.0/8",
        "255.255.255.0/24",
        "fe80::/64",
        "ff02::/64",
        "::/64",
        "ff00::/8",
    ],
)
def test_bad_ranges_are_one_clear_error(text: str) -> None:
    if text == "10.0.0.0":
        text = "10.0.0.0/32"
    with pytest.raises(OperatorError) as caught:
        AddressRange.parse(text)
    assert caught.value.reason == "bad-range"


def test_ipv6_is_the_same_code() -> None:
    wide = AddressRange.parse("fd00:1::/64")
    assert wide.cidr(wide.start + 5) == "fd00:1::5/64"
    assert wide.number("fd00:1::5") == wide.start + 5
    with pytest.raises(OperatorError):
        wide.number("10.0.0.1")


@given(st.integers(1, 16))
def test_a_split_covers_the_range_evenly(parts: int) -> None:
    starts = [*SMALL.split(parts), SMALL.end]
    sizes = [b - a for a, b in pairwise(starts)]
    assert sum(sizes) == SMALL.size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 300), st.sampled_from(["10.32.0.0/12", "10.0.0.0/16", "fd00::/64"]))
def test_slices_begin_where_prefixes_do(parts: int, text: str) -> None:
    """And nobody's is more than a sixteenth smaller than another's."""
    wide = AddressRange.parse(text)
    starts = [*wide.split(parts), Address(wide.end)]
    sizes = [b - a for a, b in pairwise(starts)]
    assert sum(sizes) == wide.size
    assert max(sizes) - min(sizes) <= wide.size / parts / 16
    unit = 1 << ((wide.size // (parts * 16)).bit_length() - 1)
    assert all(start % unit == 0 for start in starts)


def test_neither_end_of_the_range_is_ever_given() -> None:
    space = Space(SMALL)
    space.own([(SMALL.start, SMALL.end)])
    given = [space.take(T0) for _ in range(20)]
    usable = [a for a in given if a is not None]
    assert len(usable) == 14 == len(set(usable))
    assert SMALL.start not in usable
    assert SMALL.end - 1 not in usable


def test_a_freed_address_rests_and_the_longest_rested_comes_first() -> None:
    space = Space(SMALL, rest=60.0)
    space.own([(SMALL.start, SMALL.end)])
    taken = [a for a in (space.take(T0) for _ in range(14)) if a is not None]
    space.release(taken[5], Instant(1.0))
    space.release(taken[2], Instant(2.0))
    assert space.take(Instant(60.9)) is None
    assert space.take(Instant(61.5)) == taken[5]
    assert space.take(Instant(61.5)) is None
    assert space.take(Instant(62.0)) == taken[2]


def test_what_was_freed_before_a_restart_rests_anew_and_keeps_its_order() -> None:
    """R14: the store has the order, nobody the time."""
    space = Space(SMALL, rest=60.0)
    space.own([(SMALL.start, SMALL.end)])
    outside = Address(SMALL.end + 1)
    space.rest_freed([Address(SMALL.start + n) for n in (3, 1)] + [outside], Instant(9.0))
    fresh = [space.take(Instant(10.0)) for _ in range(12)]
    assert {a - SMALL.start for a in fresh if a is not None} == {2, *range(4, 15)}
    assert space.take(Instant(68.0)) is None
    assert space.take(Instant(69.0)) == SMALL.start + 3
    assert space.take(Instant(69.0)) == SMALL.start + 1
    assert space.take(Instant(69.0)) is None


def test_no_more_freed_addresses_are_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that are forgotten are found again, behind those that are fresh; none that rests is."""
    monkeypatch.setattr("ipam.space.MAX_FREED", 3)
    space = Space(SMALL, rest=5.0)
    space.own([(SMALL.start, SMALL.end)])
    taken = [a for a in (space.take(T0) for _ in range(14)) if a is not None]
    for address in taken[:4]:
        space.release(address, Instant(1.0))
    assert len(space._resting) == 4, "none has rested yet"
    space.release(taken[4], Instant(7.0))
    assert len(space._resting) == 3
    assert [space.take(Instant(7.0)) for _ in range(5)] == [*taken[:4], None]
    assert space.take(Instant(12.0)) == taken[4]


@pytest.mark.parametrize(
    "text", ["x", "10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0.1/24", "10.0.0.1-", "1-2", "-"]
)
def test_bad_exclusions_are_one_clear_error(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_exclusions(text)
    assert caught.value.reason == "bad-exclusion"


def test_too_many_exclusions() -> None:
    many = ",".join(["10.0.0.1"] * (MAX_EXCLUSIONS + 1))
    with pytest.raises(OperatorError) as caught:
        parse_exclusions(many)
    assert caught.value.reason == "bad-exclusion"


def test_exclusions_are_joined_and_cut_to_the_range() -> None:
    text = "9.0.0.0/8, 10.0.0.1-10.0.0.3,10.0.0.4,,10.0.0.2-10.0.0.3,10.0.0.14/31,fd00::1"
    excluded = Excluded(SMALL, parse_exclusions(text))
    assert excluded.texts() == ["10.0.0.1-10.0.0.4", "10.0.0.14-10.0.0.15"]
    inside = [n for n in range(16) if excluded.end_of(SMALL.start + n) is not None]
    assert inside == [1, 2, 3, 4, 14, 15]


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=4),
    st.lists(st.integers(0, 15), max_size=2, unique=True),
    st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_what_is_excluded_is_never_taken_nor_given_away(
    pairs: list[tuple[int, int]], cuts: list[int], steps: list[bool]
) -> None:
    """R22, with everything that is not excluded given in the end, and counted right before."""
    parts = [Exclusion(4, Address(SMALL.start + a), Address(SMALL.start + b)) for a, b in pairs]
    shut = {at for p in parts for at in range(p.start, p.end)}
    space = Space(SMALL, rest=0.0, excluded=Excluded(SMALL, [p for p in parts if p.start < p.end]))
    edges = [SMALL.start, *(Address(SMALL.start + c) for c in sorted(cuts)), SMALL.end]
    space.own([(a, Address(b)) for a, b in pairwise(edges) if a < b])
    usable = set(range(SMALL.start + 1, SMALL.end - 1)) - shut
    held: list[Address] = []
    for takes in steps:
        assert space.free_count() == len(usable) - len(held)
        block = space.spare_block(T0)
        assert (block is None) == (len(held) == len(usable))
        assert block is None or not shut & set(range(*block))
        if takes or not held:
            address = space.take(T0)
            assert (address is None) == (len(held) == len(usable))
            if address is not None:
                assert address in usable
                held.append(address)
        else:
            space.release(held.pop(), T0)


def test_a_donation_is_at_most_half_of_what_is_free() -> None:
    space = Space(SMALL)
    space.own([(SMALL.start, SMALL.end)])
    while (block := space.spare_block(T0)) is not None:
        free = space.free_count()
        assert block[1] - block[0] <= max(1, free // 2)
        assert not any(block[0] <= a < block[1] for a in space.used)
        taken = space.take(T0)
        assert taken is not None


REPORT = Report(
    cluster=16 * b"\x11",
    ring=32 * b"\x22",
    excluded=8 * b"\x33",
    slices=2,
    used=4,
    free=5,
    resting=6,
    leaks=7,
    withheld="a",
    owned_count=3,
    owned=((Address(1), Address(2), 9),),
    disputed=((Address(3), Address(4)),),
    astray=(Address(8),),
)

MESSAGES = [
    (Message(MessageKind.REQUEST, 7), "01 00000007"),
    (Message(MessageKind.DONATE, 7, (b"ab", b"c")), "02 00000007 0002 0002 6162 0001 63"),
    (Message(MessageKind.DENIED, 1), "03 00000001"),
    (Message(MessageKind.HANDOVER, 2, ()), "04 00000002 0000"),
    (Message(MessageKind.ACK, 2), "05 00000002"),
    (
        Message(MessageKind.VERIFY, 3, extents=((Address(1), Address(2), 5),)),
        "06 00000003 0001" + 15 * "00" + "01" + 15 * "00" + "02" + 7 * "00" + "05",
    ),
    (Message(MessageKind.NEWER, 3, (b"ab",)), "07 00000003 0001 0002 6162"),
    (Message(MessageKind.WANT, 4, address=Address(258)), "08 00000004" + 14 * "00" + "0102"),
    (Message(MessageKind.EXAMINE, 5), "09 00000005"),
    (
        Message(MessageKind.EXAMINED, 5, report=REPORT),
        "0a 00000005"
        + 16 * "11"
        + 32 * "22"
        + 8 * "33"  # cluster, hashes of ring and exclusions
        + "00000002"
        + 7 * "00"
        + "04"
        + 15 * "00"
        + "05"  # slices, used, free
        + "00000006 00000007 0001 61 00000003"  # resting, leaks, withheld, owned
        + "0001"
        + 15 * "00"
        + "01"
        + 15 * "00"
        + "02"
        + 7 * "00"
        + "09"
        + "0001"
        + 15 * "00"
        + "03"
        + 15 * "00"
        + "04"
        + "0000"
        + "0001"
        + 15 * "00"
        + "08",
    ),
]


@pytest.mark.parametrize(("message", "octets"), MESSAGES)
def test_messages_in_hand_written_octets(message: Message, octets: str) -> None:
    """protocol.md 12.2 and 12.4: each kind has exactly one form."""
    data = bytes.fromhex(octets)
    assert message.encode() == data
    assert decode(data) == message
    for bad in (data[:-1], data + b"\0", b"\xff" + data[1:]):
        with pytest.raises(MalformedMessageError):
            decode(bad)
    assert decode(data) == message


@pytest.mark.parametrize(
    "change",
    [
        {"owned_count": 0},
        {"withheld": "a\nb"},
        {"withheld": "x" * 65},
        {"owned": ((Address(1), Address(2), 9),) * (MAX_OWNED + 1)},
        {"disputed": ((Address(1), Address(2)),) * (MAX_PLACES + 1)},
        {"astray": (Address(1),) * (MAX_ASTRAY + 1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_reports_that_nobody_makes(change: dict[str, Any]) -> None:
    """protocol.md 12.4"""
    bad = Message(MessageKind.EXAMINED, 1, report=replace(REPORT, **change)).encode()
    with pytest.raises(MalformedMessageError):
        decode(bad)


def test_the_largest_report_fits_what_peers_say_to_each_other() -> None:
    full = replace(
        REPORT,
        owned_count=9999,
        owned=((Address(1), Address(2), 9),) * MAX_OWNED,
        disputed=((Address(1), Address(2)),) * MAX_PLACES,
        gaps=((Address(1), Address(2)),) * MAX_PLACES,
        astray=(Address(1),) * MAX_ASTRAY,
        withheld="x" * 64,
    )
    data = Message(MessageKind.EXAMINED, 1, report=full).encode()
    assert len(data) < 65536
    assert decode(data).report == full


@given(st.binary(max_size=300))
def test_random_reports_raise_nothing_else(data: bytes) -> None:
    try:
        assert decode(b"\x0a" + data).encode() == b"\x0a" + data
    except MalformedMessageError:
        return


@given(st.binary(max_size=100))
def test_random_messages_raise_nothing_else(data: bytes) -> None:
    try:
        assert decode(data).encode() == data
    except MalformedMessageError:
        return


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 13)), max_size=60))
def test_space_against_a_slow_model(steps: list[tuple[bool, int]]) -> None:
    space, now = Space(SMALL, rest=3.0), 0.0
    space.own([(SMALL.start, Address(SMALL.start + 8))])
    held: list[Address] = []
    freed: dict[Address, float] = {}
    for take, which in steps:
        now += 1.0
        if take:
            address = space.take(Instant(now))
            if address is None:
                continue
            assert address not in held
            assert SMALL.start < address < SMALL.start + 8
            assert now >= freed.get(address, -9.0) + 3.0
            held.append(address)
        elif held:
            address = held.pop(which % len(held))
            freed[address] = now
            space.release(address, Instant(now))
        assert space.used == set(held)
