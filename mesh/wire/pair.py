"""Messages of the end-to-end handshake of a pair of peers (docs/protocol.md 5.2).

SOLICIT  kind                                  the responder asks for a new epoch
NOISE    kind | epoch u16 | step u8 | active u16 | password id text | body block
READY    kind | epoch u16 | sealed block       the responder uses the epoch now
DONE     kind | epoch u16                      the initiator uses it too
REFUSED  kind | epoch u16 | reason text
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mesh.errors import MalformedMessageError
from mesh.wire.codec import Reader, Writer
from mesh.wire.handshake import MAX_ID

MAX_NOISE = 8 * 1024


class PairKind(IntEnum):
    SOLICIT = 1
    NOISE = 2
    READY = 3
    REFUSED = 4
    DONE = 5


@dataclass(frozen=True, slots=True)
class Solicit:
    """Begin a new epoch, please: we have no keys."""


@dataclass(frozen=True, slots=True)
class NoiseStep:
    """Noise message ``step`` (1 to 3) of the handshake for an epoch.

    ``active`` is the epoch that the sender sends frames under now, 0 for none, and
    ``password_id`` the initiator's choice, empty without a password.
    """

    epoch: int
    step: int
    active: int
    password_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    epoch: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    epoch: int


PairMessage = Solicit | NoiseStep | Ready | Done | Refused


def encode(message: PairMessage) -> bytes:
    match message:
        case Solicit():
            return Writer().u8(PairKind.SOLICIT).done()
        case NoiseStep(epoch, step, active, password_id, body):
            out = Writer().u8(PairKind.NOISE).u16(epoch).u8(step).u16(active)
            return out.text(password_id).block(body).done()
        case Ready(epoch, sealed):
            return Writer().u8(PairKind.READY).u16(epoch).block(sealed).done()
        case Done(epoch):
            return Writer().u8(PairKind.DONE).u16(epoch).done()
        case Refused(epoch, reason):
            return Writer().u8(PairKind.REFUSED).u16(epoch).text(reason).done()


def decode(data: bytes) -> PairMessage:
    """Raises MalformedMessageError."""
    reader = Reader(data)
    kind = reader.u8()
    message: PairMessage
    match kind:
        case PairKind.SOLICIT:
            message = Solicit()
        case PairKind.NOISE:
            epoch, step = _epoch(reader), reader.u8()
            if not 1 <= step <= 3:
                raise MalformedMessageError(f"step {step} of a handshake of three")
            active, password_id = reader.u16(), reader.text(limit=MAX_ID)
            message = NoiseStep(epoch, step, active, password_id, reader.block(limit=MAX_NOISE))
        case PairKind.READY:
            message = Ready(_epoch(reader), reader.block(limit=64))
        case PairKind.DONE:
            message = Done(_epoch(reader))
        case PairKind.REFUSED:
            message = Refused(_epoch(reader), reader.text(limit=48))
        case _:
            raise MalformedMessageError(f"pair message of kind {kind}")
    reader.end()
    return message


def _epoch(reader: Reader) -> int:
    if (epoch := reader.u16()) == 0:
        raise MalformedMessageError("epoch 0 is none")
    return epoch
