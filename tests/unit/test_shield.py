"""The filter against floods (docs/protocol.md 10.3): what it lets through, when it stands."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.clock import Instant
from mesh.link.shield import LOWER_AT, MAX_TAGS, QUIET, RAISE_AT, Instruction, Shield, program
from mesh.names import ShortID
from mesh.wire.sleeve import DATA, HEADER

US, OTHER = ShortID(7), ShortID(8)


def passes(steps: list[Instruction], datagram: bytes) -> bool:
    """Classic BPF by hand; what is loaded from beyond the end is dropped, as the kernel does."""
    packet, value, at = bytes(8) + datagram, 0, 0
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
            case _:
                assert code == 0x06
                return operand > 0


def datagram(dst: int, tag: int) -> bytes:
    return HEADER.pack(DATA, 16, 3, dst, 1, tag, 9, 0, 1, 0) + b"payload"


@given(st.sets(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=50), st.integers(0, 0xFFFFFFFF))
def test_what_is_for_us_needs_a_tag_we_know(tags: set[int], tag: int) -> None:
    steps = program(US, tags)
    assert passes(steps, datagram(US, tag)) is (tag in tags)
    assert all(passes(steps, datagram(US, known)) for known in tags)
    assert passes(steps, datagram(OTHER, tag)), "a relay does not know the tags of others"


@given(st.binary(max_size=40))
def test_any_octets_are_judged(octets: bytes) -> None:
    assert passes(program(US, [1]), octets) in (True, False)


def test_the_most_tags_fit_a_filter() -> None:
    """BPF_MAXINSNS."""
    assert len(program(US, range(MAX_TAGS))) <= 4096


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
