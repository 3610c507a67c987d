"""Records as octets: one sealed into a single datagram, one taken apart into its frames."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.errors import MalformedMessageError
from mesh.link.peers import Peer, TxEpoch
from mesh.names import ShortID
from mesh.wire.sleeve import BROADCAST_FLAG, ENVELOPE, FRAME_LENGTH, VNET_SIZE, nonce

LEAST_FRAME = VNET_SIZE + 14
"""Octets of a frame at the least: offload and Ethernet header."""

Envelope = tuple[ShortID, int, int]
"""(origin, number, hops left) of a broadcast."""


def unicast_record(frame: bytes | memoryview) -> memoryview:
    """The payload of a record of one frame, as the TAP gave it."""
    return memoryview(FRAME_LENGTH.pack(len(frame)) + frame)


def broadcast_record(envelope: Envelope, frame: bytes | memoryview) -> memoryview:
    """The payload of a record of one broadcast."""
    head = FRAME_LENGTH.pack(len(frame) | BROADCAST_FLAG)
    return memoryview(head + ENVELOPE.pack(*envelope) + frame)


def frames_in(plain: memoryview) -> Iterator[tuple[Envelope | None, memoryview]]:
    """The frames of an opened record, in order. Raises MalformedMessageError where they end
    wrongly; the frames before that were given out."""
    at, end = 0, len(plain)
    while at < end:
        if at + FRAME_LENGTH.size > end:
            raise MalformedMessageError("record ends in a frame's length")
        (length,) = FRAME_LENGTH.unpack_from(plain, at)
        at += FRAME_LENGTH.size
        envelope = None
        if length & BROADCAST_FLAG:
            length ^= BROADCAST_FLAG
            if at + ENVELOPE.size > end:
                raise MalformedMessageError("record ends in an envelope")
            origin, number, hops = ENVELOPE.unpack_from(plain, at)
            envelope = (ShortID(origin), number, hops)
            at += ENVELOPE.size
        if length < LEAST_FRAME or at + length > end:
            raise MalformedMessageError(f"frame of {length} octets, {end - at} left")
        yield envelope, plain[at : at + length]
        at += length


def next_number(peer: Peer, epoch: TxEpoch | None) -> int:
    """The number of the next record to a peer; taken, it is never given again."""
    if epoch is None:
        peer.plain_seq += 1
        return peer.plain_seq
    epoch.seq += 1
    return epoch.seq


def seal(epoch: TxEpoch | None, seq: int, prefix: bytes, body: bytes) -> bytes:
    """A record's payload as it crosses; ``prefix`` as sent with 0 hops. Without keys, itself."""
    return body if epoch is None else epoch.aead.encrypt(nonce(seq), body, prefix)
