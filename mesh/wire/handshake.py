"""What is said before a control connection is established (docs/protocol.md 2).

Both ends send a header at once, in clear::

     0        6     7     8         10                                  10 + length
    +--------+-----+-----+---------+------------------------------------+
    |"weaver"| min | max | length  | ids: count u8, then text each | …  |
    +--------+-----+-----+---------+------------------------------------+

The first 10 octets are the same in every version, so that two ends without a common one still
learn it; what a later version puts behind the ids is ignored, but bound by the handshake.

then frames, each a length (2 octets), a kind (1 octet) and a body: HANDSHAKE carries a Noise
message, ALERT the reason of a refusal in clear text, CONFIRM the responder's word, sealed, that
message 3 opened and pleased it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Self

from mesh.errors import MalformedMessageError
from mesh.names import PeerUID
from mesh.wire.codec import Reader, Writer

MAGIC = b"weaver"
VERSION = 1
"""The one protocol version there is."""

_FIXED = Struct("!6sBBH")
FIXED_SIZE = _FIXED.size
MAX_IDS = 8
MAX_ID = 32
MAX_HEADER_BODY = 512
"""Octets behind the fixed part: 8 ids of 32 octets take 273, the rest is for later versions."""

MAX_FRAME = 8 * 1024
"""Octets of a handshake frame: the largest holds an ML-KEM ciphertext and an identity."""

MAX_FEATURES = 64
FRAME_HEADER = 3


class FrameKind(IntEnum):
    HANDSHAKE = 1
    ALERT = 2
    CONFIRM = 3


@dataclass(frozen=True, slots=True)
class Header:
    """The versions we speak and the ids of the passwords we hold, preferred first."""

    min_version: int
    max_version: int
    password_ids: tuple[str, ...]

    def encode(self) -> bytes:
        body = Writer().u8(len(self.password_ids))
        for text in self.password_ids:
            body.text(text)
        data = body.done()
        return _FIXED.pack(MAGIC, self.min_version, self.max_version, len(data)) + data

    @staticmethod
    def peek(fixed: bytes) -> tuple[int, int, int]:
        """(min, max, octets that follow) of the fixed part. Raises MalformedMessageError."""
        magic, low, high, length = _FIXED.unpack(fixed)
        if magic != MAGIC:
            raise MalformedMessageError(f"not weaver: starts with {magic!r}")
        if low > high or length > MAX_HEADER_BODY:
            raise MalformedMessageError("a header that makes no sense")
        return int(low), int(high), int(length)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a whole header. Raises MalformedMessageError."""
        if len(data) < FIXED_SIZE:
            raise MalformedMessageError("a header cut short")
        low, high, length = cls.peek(data[:FIXED_SIZE])
        if length != len(data) - FIXED_SIZE:
            raise MalformedMessageError("a header of another length than it says")
        reader = Reader(data[FIXED_SIZE:])
        count = reader.u8()
        if count > MAX_IDS:
            raise MalformedMessageError(f"{count} password ids")
        ids = tuple(reader.text(limit=MAX_ID) for _ in range(count))
        return cls(low, high, ids)


HELLO_CONTEXT = b"weaver noise static v1"


def frame(kind: FrameKind, body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + bytes((kind,)) + body


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says of itself inside the handshake, sealed (docs/protocol.md 2.7).

    ``signature`` is its identity's, over its Noise static key and its UID. The handshake proves who
    holds the static key; the signature says whose it is.
    """

    public_key: bytes
    signature: bytes
    uid: PeerUID
    nickname: str
    port: int
    probe_port: int
    sleeve_port: int
    features: tuple[tuple[str, str], ...]

    @staticmethod
    def signed_part(static: bytes, uid: PeerUID) -> bytes:
        return static + uid.to_bytes(8, "big")

    def encode(self) -> bytes:
        out = Writer().raw(self.public_key).raw(self.signature).u64(self.uid).text(self.nickname)
        out.u16(self.port).u16(self.probe_port).u16(self.sleeve_port).u8(len(self.features))
        for key, value in self.features:
            out.text(key).text(value)
        return out.done()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        reader = Reader(data)
        public_key, signature = reader.raw(32), reader.raw(64)
        uid, nickname = PeerUID(reader.u64()), reader.text(limit=255)
        ports = (reader.u16(), reader.u16(), reader.u16())
        count = reader.u8()
        if count > MAX_FEATURES:
            raise MalformedMessageError(f"{count} features")
        features = tuple((reader.text(limit=64), reader.text(limit=255)) for _ in range(count))
        reader.end()
        return cls(public_key, signature, uid, nickname, *ports, features)
