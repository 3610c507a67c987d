"""The filter against floods (docs/protocol.md 10.3): what it lets through, when it stands."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.clock import Instant
from mesh.link.shedding import MOST_PAIRS
from mesh.link.shield import (
    ACCEPT_ALL,
    LOWER_AT,
    MAX_INSTRUCTIONS,
    MAX_TAGS,
    QUIET,
    RAISE_AT,
    Instruction,
    Shield,
    program,
    shedding,
)
from mesh.names import ShortID
from mesh.wire.sleeve import DATA, HEADER

US, OTHER = ShortID(7), ShortID(8)


def passes(steps: list[Instruction], datagram: bytes) -> bool:
    """Classic BPF by hand; what is loaded from beyond the end is dropped, as the kernel does."""
    packet, value, aside, at = bytes(8) + datagram, 0, 0, 0
    while True:
        code, true, false, operand = steps[at]
        at += 1
        match code:
            case 0x28 | 0x20:
                size = 2 if code == 0x28 else 4
                if operand + size > len(packet):
                    return False
                value = int.from_bytes(packet[operand : operand + size], "big")
            case 0x15:
                at += true if value == operand else false
            case 0x35:
                at += true if value >= operand else false
            case 0x05:
                at += operand
            case 0x07:
                aside = value
            case 0xAC:
                value ^= aside
            case 0xA4:
                value ^= operand
            case 0x24:
                value = value * operand % 2**32
            case _:
                assert code == 0x06
                return operand > 0


def datagram(dst: int, tag: int, src: int = 3, seq: int = 9) -> bytes:
    return HEADER.pack(DATA, 16, src, dst, 1, tag, seq, seq % 7, 7, 0) + b"payload"


SHORT_IDS = st.integers(1, 0xFFFF).map(ShortID)
TAGS = st.integers(0, 0xFFFFFFFF)


@given(st.sets(st.tuples(SHORT_IDS, TAGS), min_size=1, max_size=50), SHORT_IDS, TAGS)
def test_what_is_for_us_needs_a_tag_of_whom_it_is_from(
    badges: set[tuple[ShortID, int]], src: ShortID, tag: int
) -> None:
    steps = program(US, badges, [src], [US])
    mixed = {known ^ other << 16 for other, known in badges}
    assert passes(steps, datagram(US, tag, src)) is (tag ^ src << 16 in mixed)
    assert all(passes(steps, datagram(US, known, other)) for other, known in badges)


def test_a_tag_is_good_for_its_peer_alone() -> None:
    steps = program(US, [(ShortID(3), 77), (ShortID(4), 78)])
    assert passes(steps, datagram(US, 77, 3))
    assert not passes(steps, datagram(US, 77, 4))
    assert not passes(steps, datagram(US, 77, 40_000))


@given(st.sets(SHORT_IDS, max_size=20), st.sets(SHORT_IDS, max_size=20), SHORT_IDS, SHORT_IDS)
def test_what_is_for_others_is_from_a_peer_to_where_we_know_a_way(
    senders: set[ShortID], reached: set[ShortID], src: ShortID, dst: ShortID
) -> None:
    """A relay does not know the tags of others."""
    others = reached - {US}
    steps = program(US, [(OTHER, 5)], senders, others)
    for one, other in [(src, dst), *zip(senders, sorted(others), strict=False)]:
        if other != US:
            expected = one in senders and other in others
            assert passes(steps, datagram(other, 0xBAD, one)) is expected


@given(
    st.dictionaries(st.tuples(SHORT_IDS, SHORT_IDS), st.floats(0, 1), max_size=MOST_PAIRS),
    st.tuples(SHORT_IDS, SHORT_IDS),
    TAGS,
    st.integers(0, 1 << 40),
)
def test_of_each_pair_that_is_shed_its_share_of_records_is_dropped(
    shares: dict[tuple[int, int], float], other: tuple[int, int], salt: int, first: int
) -> None:
    steps = shedding(shares, salt) + ACCEPT_ALL
    for pair in {other, *shares}:
        some = range(first, first + 200)
        dropped = sum(not passes(steps, datagram(pair[1], 1, pair[0], seq)) for seq in some)
        assert abs(dropped / 200 - shares.get(pair, 0.0)) < 0.1


def test_no_number_passes_always() -> None:
    seen = {
        passes(shedding({(3, 8): 0.5}, salt * 0x9E37) + ACCEPT_ALL, datagram(OTHER, 1, 3, 77))
        for salt in range(50)
    }
    assert seen == {True, False}


def test_what_is_not_shed_is_judged_by_its_tag() -> None:
    judged = program(US, [(ShortID(3), 77)], [ShortID(3)], [OTHER])
    steps = shedding({(3, 8): 0.5}, 1) + judged
    passed = [passes(steps, datagram(OTHER, 0, 3, seq)) for seq in range(100)]
    assert 40 <= sum(passed) <= 60
    assert passes(steps, datagram(US, 77, 3))
    assert not passes(steps, datagram(US, 78, 3))
    assert not passes(steps, datagram(9, 77, 3))


@given(st.binary(max_size=40))
def test_any_octets_are_judged(octets: bytes) -> None:
    steps = program(US, [(OTHER, 1)], [OTHER], [OTHER])
    assert passes(steps, octets) in (True, False)


def test_the_most_tags_fit_a_filter_and_what_is_for_others_passes_when_their_peers_do_not() -> None:
    badges = [(ShortID(n + 1), n) for n in range(MAX_TAGS)]
    peers = [src for src, _ in badges]
    shares = {(n, n): 0.5 for n in range(50_000, 50_000 + MOST_PAIRS)}
    for known in (peers[:220], peers):
        steps = shedding(shares, 5) + program(US, badges, known, known)
        assert len(steps) <= MAX_INSTRUCTIONS
        assert all(passes(steps, datagram(US, tag, src)) for src, tag in badges)
        assert passes(steps, datagram(40_000, 0, 3)) is (known is peers)


def test_it_stands_during_a_flood_and_some_seconds_after() -> None:
    shield, now = Shield(), 100.0
    shield.look(RAISE_AT - 1, 3, Instant(now))
    assert not shield.is_up
    shield.look(RAISE_AT, 3, Instant(now))
    assert shield.is_up
    shield.look(LOWER_AT, 3, Instant(now + 5))
    shield.look(LOWER_AT - 1, 3, Instant(now + 5 + QUIET - 0.1))
    assert shield.is_up, "the flood goes on, slower"
    shield.look(LOWER_AT - 1, 3, Instant(now + 5 + QUIET))
    assert not shield.is_up


def test_it_never_stands_where_tags_tell_nothing() -> None:
    """In a mesh without a password all tags are zero; and too many do not fit."""
    for tags in (0, MAX_TAGS + 1):
        shield = Shield()
        shield.look(10 * RAISE_AT, tags, Instant(1.0))
        assert not shield.is_up
