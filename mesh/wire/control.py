"""Messages between neighbours on an established control connection (docs/protocol.md 4.4).

Every message is one octet that says its kind, then the body::

    GOSSIP   kind | a gossip message (section 6)
    UNICAST  kind | hops u8 | src name | src UID u64 | sequence u64 | dst name
                  | channel text | payload block (4) | signature 64
    PING     kind | token u64              PONG     kind | token u64
    ASK      kind | suspected name         VOUCH    kind | suspected name

The signature of a unicast is its source's, over everything but kind and hops, so that a relay
can neither alter it nor speak for another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from mesh.errors import MalformedMessageError
from mesh.names import PeerName, PeerUID
from mesh.wire.codec import Reader, Writer

MAX_UNICAST = 1 << 20
"""Octets of a unicast's payload: the largest ring hand-over fits many times."""

MAX_CHANNEL = 64
"""Octets of a channel's name."""

SIGNATURE_SIZE = 64
UNICAST_CONTEXT = b"weaver unicast v1"


class Kind(IntEnum):
    GOSSIP = 1
    UNICAST = 2
    PING = 3
    PONG = 4
    ASK = 5
    VOUCH = 6


@dataclass(frozen=True, slots=True)
class Gossiped:
    body: bytes


@dataclass(frozen=True, slots=True)
class Unicast:
    """A message to one peer, relayed hop by hop over control connections."""

    hops: int
    src: PeerName
    uid: PeerUID
    sequence: int
    dst: PeerName
    channel: str
    payload: bytes
    signature: bytes

    def signed_part(self) -> bytes:
        out = Writer().name(self.src).u64(self.uid).u64(self.sequence).name(self.dst)
        return out.text(self.channel).block(self.payload, size=4).done()

    def one_hop_on(self) -> Unicast:
        return replace(self, hops=self.hops - 1)


@dataclass(frozen=True, slots=True)
class Ping:
    token: int


@dataclass(frozen=True, slots=True)
class Pong:
    token: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Has anybody heard this peer lately? We are about to declare it dead."""

    suspect: PeerName


@dataclass(frozen=True, slots=True)
class Vouch:
    """We have heard it lately."""

    suspect: PeerName


Message = Gossiped | Unicast | Ping | Pong | Ask | Vouch


def encode(message: Message) -> bytes:
    match message:
        case Gossiped(body):
            return Writer().u8(Kind.GOSSIP).raw(body).done()
        case Unicast():
            out = Writer().u8(Kind.UNICAST).u8(message.hops).raw(message.signed_part())
            return out.raw(message.signature).done()
        case Ping(token):
            return Writer().u8(Kind.PING).u64(token).done()
        case Pong(token):
            return Writer().u8(Kind.PONG).u64(token).done()
        case Ask(suspect):
            return Writer().u8(Kind.ASK).name(suspect).done()
        case Vouch(suspect):
            return Writer().u8(Kind.VOUCH).name(suspect).done()


def decode(data: bytes) -> Message | None:
    """Read one message; None for a kind of a later version, which is ignored.

    Raises MalformedMessageError.
    """
    reader = Reader(data)
    kind = reader.u8()
    message: Message
    match kind:
        case Kind.GOSSIP:
            return Gossiped(reader.rest())
        case Kind.UNICAST:
            message = _unicast(reader)
        case Kind.PING:
            message = Ping(reader.u64())
        case Kind.PONG:
            message = Pong(reader.u64())
        case Kind.ASK:
            message = Ask(reader.name())
        case Kind.VOUCH:
            message = Vouch(reader.name())
        case _:
            return None
    reader.end()
    return message


def _unicast(reader: Reader) -> Unicast:
    hops = reader.u8()
    if hops == 0:
        raise MalformedMessageError("a unicast with no hops left was sent")
    return Unicast(
        hops=hops,
        src=reader.name(),
        uid=PeerUID(reader.u64()),
        sequence=reader.u64(),
        dst=reader.name(),
        channel=reader.text(limit=MAX_CHANNEL),
        payload=reader.block(size=4, limit=MAX_UNICAST),
        signature=reader.raw(SIGNATURE_SIZE),
    )
