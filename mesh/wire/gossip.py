"""Gossip messages between neighbours (docs/protocol.md 6.2).

    SUMMARY  1 | count u16 | (channel text, items u32, hash 16) …
    KEYS     2 | channel text | low block | high block | count u32 | (key block1, stamp 16) …
    WANT     3 | channel text | count u32 | key block1 …
    ITEMS    4 | channel text | count u32 | (key block1, stamp 16, payload block4) …

KEYS speaks for every key from ``low`` on and below ``high`` (empty: no end): a key in that range
that it does not list is one its sender does not hold. The sizes of single items are judged where
items are (``oversized``), so that one that is too large costs only itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mesh.errors import MalformedMessageError
from mesh.wire.codec import Reader, Writer

HASH_SIZE = 16
STAMP_SIZE = 16

MAX_KEY = 64
"""Octets of an item's key: a peer name, an address or a host name fits."""

MAX_PAYLOAD = 64 * 1024
"""Octets of one item: a topology record with 1,000 connections fits; anything larger is
refused before it is decoded."""

MAX_CHANNEL_NAME = 64
MAX_CHANNELS = 64
"""Channels of one SUMMARY: each may be answered by all its keys, so there are no more than a peer
can hold, and none twice."""


class GossipKind(IntEnum):
    SUMMARY = 1
    KEYS = 2
    WANT = 3
    ITEMS = 4


@dataclass(frozen=True, slots=True)
class ChannelSummary:
    channel: str
    items: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Summary:
    channels: tuple[ChannelSummary, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    channel: str
    low: bytes
    high: bytes
    stamps: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Want:
    channel: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """(key, stamp, payload) of each item."""

    channel: str
    items: tuple[tuple[bytes, int, bytes], ...]


GossipMessage = Summary | Keys | Want | Items


def encode(message: GossipMessage) -> bytes:
    out = Writer()
    match message:
        case Summary(channels):
            out.u8(GossipKind.SUMMARY).u16(len(channels))
            for summary in channels:
                out.text(summary.channel).u32(summary.items).raw(summary.hash)
        case Keys(channel, low, high, stamps):
            out.u8(GossipKind.KEYS).text(channel).block(low).block(high)
            out.u32(len(stamps))
            for key, stamp in stamps:
                out.block(key, size=1).uint(stamp, STAMP_SIZE)
        case Want(channel, keys):
            out.u8(GossipKind.WANT).text(channel).u32(len(keys))
            for key in keys:
                out.block(key, size=1)
        case Items(channel, items):
            out.u8(GossipKind.ITEMS).text(channel).u32(len(items))
            for key, stamp, payload in items:
                out.block(key, size=1).uint(stamp, STAMP_SIZE).block(payload, size=4)
    return out.done()


def decode(data: bytes) -> GossipMessage:
    """Raises MalformedMessageError. A count is never believed: every entry must be there."""
    reader = Reader(data)
    kind = reader.u8()
    message: GossipMessage
    match kind:
        case GossipKind.SUMMARY:
            message = _summary(reader)
        case GossipKind.KEYS:
            channel, low = _channel(reader), reader.block(limit=MAX_KEY)
            high = reader.block(limit=MAX_KEY)
            stamps = tuple(
                (_key(reader), reader.uint(STAMP_SIZE)) for _ in range(_count(reader, 17))
            )
            message = Keys(channel, low, high, stamps)
        case GossipKind.WANT:
            message = Want(_channel(reader), tuple(_key(reader) for _ in range(_count(reader, 1))))
        case GossipKind.ITEMS:
            message = Items(
                _channel(reader),
                tuple(
                    (reader.block(size=1), reader.uint(STAMP_SIZE), reader.block(size=4))
                    for _ in range(_count(reader, 21))
                ),
            )
        case _:
            raise MalformedMessageError(f"gossip message of kind {kind}")
    reader.end()
    return message


def oversized(key: bytes, payload: bytes) -> bool:
    """Whether an item is larger than any channel may make one."""
    return len(key) > MAX_KEY or len(payload) > MAX_PAYLOAD


def _summary(reader: Reader) -> Summary:
    count = reader.u16()
    if count > MAX_CHANNELS:
        raise MalformedMessageError(f"{count} channels, at most {MAX_CHANNELS} allowed")
    channels = tuple(
        ChannelSummary(_channel(reader), reader.u32(), reader.raw(HASH_SIZE)) for _ in range(count)
    )
    if len({summary.channel for summary in channels}) != count:
        raise MalformedMessageError("a channel twice in one summary")
    return Summary(channels)


def _channel(reader: Reader) -> str:
    name = reader.text(limit=MAX_CHANNEL_NAME)
    if not name or not (name.isascii() and name.isprintable()):
        raise MalformedMessageError("a channel's name that cannot be shown")
    return name


def _key(reader: Reader) -> bytes:
    return reader.block(size=1, limit=MAX_KEY)


def _count(reader: Reader, entry: int) -> int:
    """A number of entries that can at least fit in what is left."""
    count = reader.u32()
    if count * entry > reader.remaining:
        raise MalformedMessageError(f"{count} entries in {reader.remaining} octets")
    return count
