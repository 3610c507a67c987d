"""Which groups pods listen to (docs/protocol.md 14.9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.clock import Instant
from mesh.link.checksum import checksum
from mesh.link.snooping import (
    LISTENS,
    MAX_GROUPS,
    MAX_MEMBERSHIPS,
    QUERY_INTERVAL,
    RESPONSE,
    STARTUP_INTERVAL,
    Memberships,
    igmp_query,
    is_flooded,
    mld_query,
    reported,
)

POD, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
GROUP, GROUP6 = bytes.fromhex("01005e010203"), bytes.fromhex("333300010203")
KNOWN = STARTUP_INTERVAL + RESPONSE


def igmp(text: str, pod: bytes = POD, header: int = 24) -> bytes:
    message = bytes.fromhex(text)
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    head = bytes((0x40 | header // 4, 0xC0)) + (header + len(message)).to_bytes(2, "big")
    head = (head + bytes(4) + b"\1\2").ljust(header, b"\0")
    return GROUP + pod + b"\x08\0" + head + message


def mld(text: str, pod: bytes = POD) -> bytes:
    message = bytes.fromhex(text)
    ends = b"\xfe\x80" + bytes(14) + b"\xff\x02" + bytes(13) + b"\x16"
    pseudo = ends + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    message = message[:2] + checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    head = b"\x60\0\0\0" + (8 + len(message)).to_bytes(2, "big") + b"\0\1" + ends
    return GROUP6 + pod + b"\x86\xdd" + head + bytes.fromhex("3a00050200000100") + message


IP6 = "ff0e" + "00" * 10 + "00010203"
OF_LINK = "ff02" + "00" * 13 + "01"


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (igmp("12000000 ef010203"), [(GROUP, True)]),
        (igmp("16000000 ef010203"), [(GROUP, True)]),
        (igmp("16000000 ef810203", header=20), [(GROUP, True)]),
        (igmp("17000000 ef010203"), [(GROUP, False)]),
        (igmp("16000000 0a010203"), []),
        (igmp("11000000 ef010203"), []),
        (igmp("22000000 00000001 02000000 ef010203"), [(GROUP, True)]),
        (igmp("22000000 00000001 04000000 ef010203"), [(GROUP, True)]),
        (igmp("22000000 00000001 03000000 ef010203"), [(GROUP, False)]),
        (igmp("22000000 00000001 01000001 ef010203 0a000001"), [(GROUP, True)]),
        (igmp("22000000 00000001 05000001 ef010203 0a000001"), [(GROUP, True)]),
        (igmp("22000000 00000001 06000001 ef010203 0a000001"), []),
        (
            igmp("22000000 00000002 04010001 ef010203 0a000001 00000000 03000000 ef010203"),
            [(GROUP, True), (GROUP, False)],
        ),
        (igmp("22000000 0000ffff 04000000 ef010203"), [(GROUP, True)]),
        (igmp("22000000 00000001 0400ffff ef010203"), []),
        (mld("83000000 00000000" + IP6), [(GROUP6, True)]),
        (mld("84000000 00000000" + IP6), [(GROUP6, False)]),
        (mld("83000000 00000000" + "20010db8" + "00" * 12), []),
        (mld("8f000000 00000001 04000000" + IP6), [(GROUP6, True)]),
        (mld("8f000000 00000001 03000000" + IP6), [(GROUP6, False)]),
        (mld("8f000000 00000002 04000000" + IP6), [(GROUP6, True)]),
    ],
)
def test_what_reports_say(frame: bytes, told: list[tuple[bytes, bool]]) -> None:
    """RFC 2236, RFC 3376 4.2.12, RFC 2710, RFC 3810 5.2.12: records that were whole count."""
    assert list(reported(frame)) == told
    assert list(reported(frame + b"padding")) == told
    wrong = bytearray(frame)
    wrong[-1] ^= 1
    assert list(reported(bytes(wrong))) == [], "with a wrong checksum it says nothing"


@given(st.binary(max_size=120))
def test_no_octets_break_it(octets: bytes) -> None:
    for start in (b"\x08\0", b"\x86\xdd"):
        list(reported(GROUP + POD + start + octets))
    for whole in (igmp("22000000 00000001 02000000 ef010203"), mld("83000000 00000000" + IP6)):
        list(reported(whole[: 14 + len(octets)] + octets))


def test_groups_are_known_when_pods_had_time_to_answer() -> None:
    known = Memberships(Instant(0.0))
    assert len(known.tick(Instant(0.0))) == 2
    known.heard(igmp("16000000 ef010203"), Instant(1.0))
    assert known.groups(Instant(KNOWN - 0.1)) is None
    assert known.groups(Instant(KNOWN)) == frozenset({GROUP})


def test_a_group_is_ours_while_one_pod_listens() -> None:
    known = Memberships(Instant(0.0))
    for pod in (POD, OTHER):
        known.heard(igmp("16000000 ef010203", pod), Instant(1.0))
    known.heard(igmp("17000000 ef010203", POD), Instant(20.0))
    assert known.groups(Instant(20.0)) == frozenset({GROUP})
    known.heard(igmp("17000000 ef010203", OTHER), Instant(21.0))
    assert known.groups(Instant(21.0)) == frozenset()


def test_who_does_not_answer_is_forgotten_after_two_queries() -> None:
    known = Memberships(Instant(0.0))
    known.heard(igmp("16000000 ef010203"), Instant(1.0))
    asked, now = 0, Instant(0.0)
    while known.groups(now) != frozenset():
        now = known.due if known.due > now else Instant(now + 0.1)
        asked += bool(known.tick(now))
        assert now <= 1.0 + LISTENS + 0.1
    assert now >= 1.0 + LISTENS
    assert asked >= 2 + (LISTENS - STARTUP_INTERVAL * 2) // QUERY_INTERVAL


def test_too_many_groups_are_all_groups() -> None:
    known = Memberships(Instant(0.0))
    for n in range(MAX_GROUPS + 1):
        known.heard(igmp("16000000 ef02" + n.to_bytes(2, "big").hex()), Instant(9.0))
    assert known.groups(Instant(9.0)) is None
    for n in range(MAX_MEMBERSHIPS + 1):
        known.heard(igmp("16000000 ef02" + n.to_bytes(2, "big").hex()), Instant(9.0))
    assert known.groups(Instant(9.0)) is None
    assert len(known._until) == MAX_MEMBERSHIPS
    known.tick(Instant(10.0 + LISTENS))
    assert known.groups(Instant(10.0 + LISTENS)) == frozenset()


def test_groups_that_go_to_everybody() -> None:
    """RFC 4541 2.1.2: 224.0.0.0/24, also under another group's name; IPv6's well-known ones."""
    always = ("01005e0000fb", "333300000001", "3333000000fb", "3333ff010203", "ffffffffffff")
    assert all(is_flooded(bytes.fromhex(mac)) for mac in always)
    assert not any(is_flooded(mac) for mac in (GROUP, GROUP6))
    known = Memberships(Instant(0.0))
    known.heard(igmp("16000000 e00000fb"), Instant(KNOWN))
    known.heard(mld("83000000 00000000" + OF_LINK), Instant(KNOWN))
    assert known.groups(Instant(KNOWN)) == frozenset()


def test_queries_are_good() -> None:
    """RFC 3376 4.1, RFC 3810 5.1: sent to all, with a router alert, one hop."""
    query = igmp_query()
    assert query[:6] == bytes.fromhex("01005e000001")
    assert (checksum(query[14:38]), checksum(query[38:])) == (0, 0)
    assert (query[22], query[23], query[34:38], query[38]) == (1, 2, b"\x94\4\0\0", 0x11)
    query = mld_query()
    assert query[:6] == bytes.fromhex("333300000001")
    pseudo = query[22:54] + len(query[62:]).to_bytes(4, "big") + b"\0\0\0\x3a"
    assert checksum(pseudo + query[62:]) == 0
    assert (query[21], query[54:62], query[62]) == (1, bytes.fromhex("3a00050200000100"), 130)
    assert list(reported(igmp_query())) == list(reported(mld_query())) == []
