"""What the workers of one host say to each other (docs/protocol.md 11.5)."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import MalformedMessageError
from mesh.names import ShortID
from mesh.wire.codec import Reader, Writer
from mesh.wire.sleeve import MAX_PLAIN


@dataclass(frozen=True, slots=True)
class Learned:
    """A MAC address (6 octets) is behind a peer; 0: on our own bridge."""

    mac: bytes
    place: ShortID


@dataclass(frozen=True, slots=True)
class Spread:
    """A group-addressed frame of one of our pods, virtio-net header first: lane 0 sends it."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Reported:
    """A peer's report of what it lost of ours, as it came."""

    short_id: ShortID
    body: bytes


BusMessage = Learned | Spread | Reported


def encode(message: BusMessage) -> bytes:
    match message:
        case Learned(mac, place):
            return Writer().u8(1).raw(mac).u16(place).done()
        case Spread(frame):
            return Writer().u8(2).raw(frame).done()
        case Reported(short_id, body):
            return Writer().u8(3).u16(short_id).raw(body).done()


def decode(data: bytes) -> BusMessage:
    """Raises MalformedMessageError."""
    reader = Reader(data)
    kind = reader.u8()
    match kind:
        case 1:
            message: BusMessage = Learned(reader.raw(6), ShortID(reader.u16()))
        case 2:
            message = Spread(reader.raw(min(reader.remaining, MAX_PLAIN)))
        case 3:
            message = Reported(ShortID(reader.u16()), reader.raw(reader.remaining))
        case _:
            raise MalformedMessageError(f"bus message of kind {kind}")
    reader.end()
    return message
