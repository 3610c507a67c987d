"""protocol.md 4.4: messages between neighbours, in hand-written octets."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.errors import MalformedMessageError
from mesh.names import PeerName, PeerUID
from mesh.wire.control import (
    Ask,
    Gossiped,
    Message,
    Ping,
    Pong,
    Unicast,
    Vouch,
    decode,
    encode,
)

A, B = PeerName(b"a" * 8), PeerName(b"b" * 8)
UNICAST = Unicast(3, A, PeerUID(7), 9, B, "ipam", b"hello", b"s" * 64)

CASES: list[tuple[Message, str]] = [
    (Gossiped(b"xyz"), "01" + b"xyz".hex()),
    (
        UNICAST,
        "02 03"
        + "61" * 8
        + "0000000000000007 0000000000000009"
        + "62" * 8
        + "0004"
        + b"ipam".hex()
        + "00000005"
        + b"hello".hex()
        + "73" * 64,
    ),
    (Ping(1), "03 0000000000000001"),
    (Pong(2), "04 0000000000000002"),
    (Ask(A), "05" + "61" * 8),
    (Vouch(B), "06" + "62" * 8),
]


@pytest.mark.parametrize(("message", "octets"), CASES)
def test_both_ways(message: Message, octets: str) -> None:
    """protocol.md 4.4: each kind has exactly one form."""
    assert encode(message) == bytes.fromhex(octets)
    assert decode(bytes.fromhex(octets)) == message


@pytest.mark.parametrize(("message", "octets"), CASES[1:])
def test_cut_or_lengthened_messages_are_malformed(message: Message, octets: str) -> None:
    data = bytes.fromhex(octets)
    for bad in (data[:-1], data + b"\0"):
        with pytest.raises(MalformedMessageError):
            decode(bad)
    assert decode(data) == message


def test_a_kind_of_a_later_version_is_ignored() -> None:
    """protocol.md 4.4: unknown kinds MUST be ignored, so that later versions may add some."""
    assert decode(b"\xff whatever") is None


def test_no_hops_left_is_malformed() -> None:
    """protocol.md 4.5: a unicast with no hops left MUST NOT be sent, and is refused."""
    with pytest.raises(MalformedMessageError):
        decode(encode(UNICAST)[:1] + b"\0" + encode(UNICAST)[2:])


def test_relaying_changes_nothing_that_is_signed() -> None:
    """protocol.md 4.5: the signature covers everything but the kind and the hops."""
    assert UNICAST.one_hop_on().signed_part() == UNICAST.signed_part()
    assert UNICAST.one_hop_on().hops == UNICAST.hops - 1


@given(st.binary(max_size=200))
def test_random_octets_raise_nothing_else(data: bytes) -> None:
    try:
        message = decode(data)
    except MalformedMessageError:
        return
    assert message is None or encode(message) == data
