"""The two tools every codec is made of."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.errors import MalformedMessageError
from mesh.names import Endpoint, PeerName
from mesh.wire.codec import Reader, Writer

NAME = PeerName(bytes(range(8)))


def test_every_field_in_hand_written_octets() -> None:
    octets = Writer().u8(1).u16(2).u32(3).u64(4).block(b"xy").text("é").name(NAME).done()
    assert octets == bytes.fromhex(
        "01 0002 00000003 0000000000000004 0002 7879 0002 c3a9 0001020304050607"
    )
    reader = Reader(octets)
    assert [reader.u8(), reader.u16(), reader.u32(), reader.u64()] == [1, 2, 3, 4]
    assert (reader.block(), reader.text(), reader.name()) == (b"xy", "é", NAME)
    reader.end()


@pytest.mark.parametrize(
    ("octets", "read"),
    [
        pytest.param(b"\x00", lambda r: r.u16(), id="integer-cut"),
        pytest.param(b"\xff\xff", lambda r: r.block(), id="length-beyond-the-end"),
        pytest.param(b"\x00\x05hello", lambda r: r.block(limit=4), id="over-its-limit"),
        pytest.param(b"\x00\x01\xff", lambda r: r.text(), id="not-utf-8"),
        pytest.param(b"\x00" * 7, lambda r: r.name(), id="name-cut"),
        pytest.param(b"\x00", lambda r: r.end(), id="octets-left"),
    ],
)
def test_bad_octets_raise_one_error(octets: bytes, read: object) -> None:
    assert callable(read)
    with pytest.raises(MalformedMessageError):
        read(Reader(octets))


def test_a_huge_declared_length_allocates_nothing() -> None:
    with pytest.raises(MalformedMessageError):
        Reader(b"\xff" * 8).block(size=8)


@given(st.binary(max_size=64))
def test_reader_raises_nothing_else_whatever_it_is_fed(octets: bytes) -> None:
    reader = Reader(octets)
    try:
        while reader.remaining:
            reader.block(size=1)
            reader.text()
    except MalformedMessageError:
        return


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint("192.0.2.1", 6783), "192.0.2.1:6783"),
        (Endpoint("2001:db8::1", 1), "[2001:db8::1]:1"),
    ],
)
def test_endpoints_print_as_people_write_them(endpoint: Endpoint, text: str) -> None:
    assert str(endpoint) == text


def test_peer_names_print_and_parse() -> None:
    assert str(NAME) == "00:01:02:03:04:05:06:07"
    assert PeerName.parse(str(NAME)) == PeerName.parse("0001020304050607") == NAME
    for bad in ("", "00:01", "zz:01:02:03:04:05:06:07"):
        with pytest.raises(ValueError, match=r".+"):
            PeerName.parse(bad)
