"""Gossip messages against hand-written octets, and against noise."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.errors import MalformedMessageError
from mesh.wire.gossip import (
    MAX_CHANNELS,
    MAX_KEY,
    MAX_PAYLOAD,
    ChannelSummary,
    GossipMessage,
    Items,
    Keys,
    Summary,
    Want,
    decode,
    encode,
    oversized,
)

STAMP = (7 << 64) | 9
STAMP_OCTETS = "0000000000000007 0000000000000009"
CASES: list[tuple[GossipMessage, str]] = [
    (Summary(()), "01 0000"),
    (
        Summary((ChannelSummary("ab", 3, bytes(range(16))),)),
        "01 0001 0002 6162 00000003 000102030405060708090a0b0c0d0e0f",
    ),
    (
        Keys("c", b"\x01", b"", ((b"\x01\x02", STAMP),)),
        f"02 0001 63 0001 01 0000 00000001 02 0102 {STAMP_OCTETS}",
    ),
    (Want("c", (b"k", b"")), "03 0001 63 00000002 01 6b 00"),
    (
        Items("c", ((b"k", STAMP, b"xyz"),)),
        f"04 0001 63 00000001 01 6b {STAMP_OCTETS} 00000003 78797a",
    ),
]


@pytest.mark.parametrize(("message", "octets"), CASES)
def test_octets(message: GossipMessage, octets: str) -> None:
    """protocol.md 6.2: the four messages, octet for octet."""
    data = bytes.fromhex(octets)
    assert encode(message) == data
    assert decode(data) == message


@pytest.mark.parametrize(("message", "octets"), CASES)
def test_cut_short_or_followed_by_more(message: GossipMessage, octets: str) -> None:
    """protocol.md 6.2: a message that does not decode is refused as a whole."""
    data = bytes.fromhex(octets)
    for size in range(len(data)):
        with pytest.raises(MalformedMessageError):
            decode(data[:size])
    with pytest.raises(MalformedMessageError):
        decode(data + b"\0")
    assert decode(data) == message


@pytest.mark.parametrize(
    "octets",
    [
        "",
        "05 0000",
        "03 0001 63 ffffffff",
        "04 0001 63 ffffffff 00",
        "03 0000 00000000",
        "03 0001 1b 00000000",
        "03 0001 ff 00000000",
        "02 0001 63 0041" + "00" * 65 + "0000 00000000",
    ],
    ids=["nothing", "kind", "wants", "items", "nameless", "escape", "utf8", "low"],
)
def test_refused(octets: str) -> None:
    """protocol.md 6.2: a count is not believed; 6.1: names are printable, keys have a limit."""
    with pytest.raises(MalformedMessageError):
        decode(bytes.fromhex(octets))


def test_a_summary_names_few_channels_and_each_once() -> None:
    """protocol.md 6.2: not more than 64 channels, nor one twice."""
    channels = [ChannelSummary(f"c{n}", 0, bytes(16)) for n in range(MAX_CHANNELS + 1)]
    with pytest.raises(MalformedMessageError, match="65 channels"):
        decode(encode(Summary(tuple(channels))))
    with pytest.raises(MalformedMessageError, match="twice"):
        decode(encode(Summary((channels[0], channels[0]))))
    assert decode(encode(Summary(tuple(channels[:-1])))) == Summary(tuple(channels[:-1]))


def test_sizes_of_items_are_judged_one_by_one() -> None:
    """protocol.md 6.2: a message with an item too large decodes; the item tells."""
    big = (b"k", 1, bytes(MAX_PAYLOAD + 1))
    small = (b"k", 1, bytes(MAX_PAYLOAD))
    assert decode(encode(Items("c", (big, small)))) == Items("c", (big, small))
    assert oversized(b"k", big[2])
    assert not oversized(b"k", small[2])
    assert oversized(bytes(MAX_KEY + 1), b"")
    assert not oversized(bytes(MAX_KEY), b"")


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    """protocol.md 6.2: noise decodes to what encodes to it, or is refused in the one way."""
    try:
        message = decode(data)
    except MalformedMessageError:
        return
    assert encode(message) == data
