"""Messages between allocators, carried as unicasts of the mesh (docs/protocol.md 12.2).

REQUEST  1 | number u32                       may we have space?
DONATE   2 | number u32 | count u16 | slice block …     here: signed slices
DENIED   3 | number u32
HANDOVER 4 | number u32 | count u16 | slice block …     we leave: do you hold these?
ACK      5 | number u32                       they are durable here
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mesh.errors import MalformedMessageError
from mesh.wire.codec import Reader, Writer

MAX_SLICES = 4096


class MessageKind(IntEnum):
    REQUEST = 1
    DONATE = 2
    DENIED = 3
    HANDOVER = 4
    ACK = 5


@dataclass(frozen=True, slots=True)
class Message:
    kind: MessageKind
    number: int
    slices: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        out = Writer().u8(self.kind).u32(self.number)
        if self.kind in (MessageKind.DONATE, MessageKind.HANDOVER):
            out.u16(len(self.slices))
            for piece in self.slices:
                out.block(piece)
        return out.done()


def decode(data: bytes) -> Message:
    """Raises MalformedMessageError."""
    reader = Reader(data)
    try:
        kind = MessageKind(reader.u8())
    except ValueError as err:
        raise MalformedMessageError("an ipam message of an unknown kind") from err
    number = reader.u32()
    slices: tuple[bytes, ...] = ()
    if kind in (MessageKind.DONATE, MessageKind.HANDOVER):
        count = reader.u16()
        if count > MAX_SLICES:
            raise MalformedMessageError(f"{count} slices")
        slices = tuple(reader.block(limit=1024) for _ in range(count))
    reader.end()
    return Message(kind, number, slices)
