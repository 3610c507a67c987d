"""protocol.md 2.2 and 2.7: header and hello, octet for octet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.connection.reasons import MIRROR, Refusal, explain, understood
from mesh.errors import MalformedMessageError
from mesh.names import PeerUID
from mesh.wire.handshake import FIXED_SIZE, FrameKind, Header, Hello, frame

HEADER = Header(1, 2, ("new", "old"))
HEADER_OCTETS = bytes.fromhex("776561766572 01 02 000b 02 0003 6e6577 0003 6f6c64")

HELLO = Hello(b"k" * 32, b"s" * 64, PeerUID(258), "h\u00fc", 1, 2, 3, (("a", "b"),))
HELLO_OCTETS = (
    b"k" * 32
    + b"s" * 64
    + bytes.fromhex("0000000000000102 0003 68c3bc 0001 0002 0003 01 0001 61 0001 62")
)


def test_header() -> None:
    assert HEADER.encode() == HEADER_OCTETS
    assert Header.decode(HEADER_OCTETS) == HEADER
    assert Header.peek(HEADER_OCTETS[:FIXED_SIZE]) == (1, 2, 11)
    for cut in range(len(HEADER_OCTETS)):
        with pytest.raises(MalformedMessageError):
            Header.decode(HEADER_OCTETS[:cut])


@pytest.mark.parametrize(
    "octets",
    [
        "576561766572 01 01 0001 00",  # Weaver
        "776561766572 02 01 0001 00",  # from 2 to 1
        "776561766572 01 01 0201",  # 513 octets to follow
        "776561766572 01 01 0001 09",  # nine ids
        "776561766572 01 01 0003 01 0021",  # an id of 33
        "776561766572 01 01 0004 01 0001 ff",  # not UTF-8
    ],
)
def test_headers_that_make_no_sense(octets: str) -> None:
    with pytest.raises(MalformedMessageError):
        Header.decode(bytes.fromhex(octets))


def test_frames() -> None:
    assert frame(FrameKind.ALERT, b"no") == bytes.fromhex("0002 02 6e6f")


def test_hello() -> None:
    assert HELLO.encode() == HELLO_OCTETS
    assert Hello.decode(HELLO_OCTETS) == HELLO
    assert Hello.signed_part(b"S" * 32, PeerUID(258)) == b"S" * 32 + bytes.fromhex(
        "0000000000000102"
    )
    for cut in range(len(HELLO_OCTETS)):
        with pytest.raises(MalformedMessageError):
            Hello.decode(HELLO_OCTETS[:cut])
    with pytest.raises(MalformedMessageError):
        Hello.decode(HELLO_OCTETS + b"\0")


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_codecs_raise_one_error_only(data: bytes) -> None:
    for decode in (Header.decode, Hello.decode):
        for octets in (data, HEADER_OCTETS[:FIXED_SIZE] + data, HELLO_OCTETS[:104] + data):
            try:
                decode(octets)
            except MalformedMessageError:
                continue


def test_every_reason_has_words() -> None:
    """protocol.md 2.9"""
    for reason in Refusal:
        assert explain(reason, False) != reason
        assert understood(reason.encode()) is reason
    assert set(MIRROR) <= set(Refusal)


@pytest.mark.parametrize("word", [b"", b"\xff", b"Wrong-Password", b"x" * 5000])
def test_words_that_are_none_of_ours(word: bytes) -> None:
    assert understood(word) is Refusal.REFUSED
