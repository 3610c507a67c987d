"""Sleeve datagrams and the records inside them (docs/protocol.md 10).

A record is one sealed run of frames, cut into datagrams that fit the path::

     0      1      2       4       6       8      12       20      21      22         24
    +------+------+-------+-------+-------+------+--------+-------+-------+----------+---------+
    | kind | hops | src   | dst   | epoch | tag  | seq    | index | total | reserved | payload |
    +------+------+-------+-------+-------+------+--------+-------+-------+----------+---------+

All datagrams of a record but the last have the same size. ``seq`` counts the records sent under
one epoch and is the nonce; everything before it, with hops as zero, is the additional data. Its
first octet is the lane: which of the sending host's workers counts there.

The payload of a DATA or PLAIN record, before sealing, is frames one after another::

    length u32 (top bit: a broadcast envelope precedes) | [origin u16 | number u64 | hops u8]
    | virtio-net header 10 | Ethernet frame

Header, lengths and envelope are big-endian; the virtio-net header is little-endian, as the TAP is
told to have it whatever machine it is on.
"""

from __future__ import annotations

from struct import Struct

DATA, PLAIN, PROBE, PROBE_REPLY, REPORT = 1, 2, 3, 4, 5
"""Sealed frames; frames in clear; a path probe; its answer; what came and what got lost."""

KINDS = frozenset((DATA, PLAIN, PROBE, PROBE_REPLY, REPORT))

HEADER = Struct("!BBHHHIQBBH")
HEADER_SIZE = HEADER.size
PREFIX = Struct("!BBHHHI")
"""kind, hops, src, dst, epoch, tag."""

DST_AT, EPOCH_AT, SEQ_AT, INDEX_AT, TOTAL_AT = 4, 6, 12, 20, 21
"""Where these fields begin."""

LANE_SHIFT = 56
"""Bits of ``seq`` below its lane."""

WAY_SIZE = SEQ_AT + 1
"""The first octets, lane included: the same for all that one worker sends another under one
epoch over one path."""

TAG_SIZE = 16
HOP_LIMIT = 16
"""Hops a datagram, or a broadcast, may take."""

FRAME_LENGTH = Struct("!I")
BROADCAST_FLAG = 1 << 31
ENVELOPE = Struct("!HQB")
VNET = Struct("<BBHHHH")
"""virtio-net header: flags, gso type, header length, gso size, checksum start and offset."""
VNET_SIZE = VNET.size

PROBE_BODY = Struct("!QH")
"""nonce, size of the whole datagram's payload; zeroes follow."""

REPORT_BODY = Struct("!IIIII")
"""Since the last report: records that came whole, records that did not, datagrams of the former,
datagrams the path lost, datagrams that the receiver's own queue had no room for."""

MAX_RECORD = 62_000
"""Octets after which a record takes no more frames; the last frame may double that."""

MAX_PLAIN = 140_000
"""Octets of the largest record we open or seal: a super-frame behind an almost full record."""

MAX_DATAGRAMS = 200
"""Datagrams of one record: the largest record in the smallest segments."""


def nonce(seq: int) -> bytes:
    """The AEAD nonce of a record: never repeats, for ``seq`` never does within an epoch."""
    return bytes(4) + seq.to_bytes(8, "big")
