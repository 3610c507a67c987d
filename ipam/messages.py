"""Messages between allocators, carried as unicasts of the mesh (docs/protocol.md 12.2).

REQUEST  1 | number u32                       may we have space?
DONATE   2 | number u32 | count u16 | slice block …     here: signed slices
DENIED   3 | number u32
HANDOVER 4 | number u32 | count u16 | slice block …     we leave: do you hold these?
ACK      5 | number u32                       they are durable here
VERIFY   6 | number u32 | count u16 | { start 16 | end 16 | version u64 } …   is any of this old?
NEWER    7 | number u32 | count u16 | slice block …     what is newer
WANT     8 | number u32 | address 16          may we have this very address?
EXAMINE  9 | number u32                       how is it with your addresses?
EXAMINED 10 | number u32 | report             ipam.report
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ipam.address import Address
from ipam.report import Report, read_report
from ipam.slices import ADDRESS_SIZE
from mesh.errors import MalformedMessageError
from mesh.wire.codec import Reader, Writer

MAX_SLICES = 4096
MAX_EXTENTS = 1024
"""Of one VERIFY: less than 64 KiB, as everything that peers say to each other."""

Extent = tuple[Address, Address, int]
"""Start, end and version of what somebody believes to own."""


class MessageKind(IntEnum):
    REQUEST = 1
    DONATE = 2
    DENIED = 3
    HANDOVER = 4
    ACK = 5
    VERIFY = 6
    NEWER = 7
    WANT = 8
    EXAMINE = 9
    EXAMINED = 10


_WITH_SLICES = (MessageKind.DONATE, MessageKind.HANDOVER, MessageKind.NEWER)


@dataclass(frozen=True, slots=True)
class Message:
    kind: MessageKind
    number: int
    slices: tuple[bytes, ...] = ()
    extents: tuple[Extent, ...] = ()
    address: Address | None = None
    report: Report | None = None

    def encode(self) -> bytes:
        out = Writer().u8(self.kind).u32(self.number)
        if self.kind in _WITH_SLICES:
            out.u16(len(self.slices))
            for piece in self.slices:
                out.block(piece)
        elif self.kind is MessageKind.VERIFY:
            out.u16(len(self.extents))
            for start, end, version in self.extents:
                out.uint(start, ADDRESS_SIZE).uint(end, ADDRESS_SIZE).u64(version)
        elif self.kind is MessageKind.WANT:
            out.uint(self.address or 0, ADDRESS_SIZE)
        elif self.report is not None:
            out.raw(self.report.encode())
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
    extents: tuple[Extent, ...] = ()
    address = report = None
    if kind in _WITH_SLICES:
        slices = tuple(reader.block(limit=1024) for _ in range(_counted(reader, MAX_SLICES)))
    elif kind is MessageKind.VERIFY:
        extents = tuple(
            (
                Address(reader.uint(ADDRESS_SIZE)),
                Address(reader.uint(ADDRESS_SIZE)),
                reader.u64(),
            )
            for _ in range(_counted(reader, MAX_EXTENTS))
        )
    elif kind is MessageKind.WANT:
        address = Address(reader.uint(ADDRESS_SIZE))
    elif kind is MessageKind.EXAMINED:
        report = read_report(reader)
    reader.end()
    return Message(kind, number, slices, extents, address, report)


def _counted(reader: Reader, limit: int) -> int:
    count = reader.u16()
    if count > limit:
        raise MalformedMessageError(f"a list of {count}")
    return count
