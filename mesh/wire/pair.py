"""Messages of the end-to-end handshake of a pair of peers (docs/protocol.md 5.2).

SOLICIT  kind                                  the responder asks for a new epoch
NOISE    kind | epoch u16 | step u8 | password id text | body block
READY    kind | epoch u16 | sealed block       the responder uses the epoch now
REFUSED  kind | epoch u16 | reason text
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mesh.errors import MalformedMessageError
from mesh.wire.codec import Reader, Writer

MAX_NOISE = 8 * 1024


class PairKind(IntEnum):
    SOLICIT = 1
    NOISE = 2
    READY = 3
    REFUSED = 4


@dataclass(frozen=True, slots=True)
class Solicit:
    """Begin a new epoch, please: we have no keys."""


@dataclass(frozen=True, slots=True)
class NoiseStep:
    """Noise message ``step`` (1 to 3) of the handshake for an epoch.

    ``password_id`` is the initiator's choice in step 1, empty without a password.
    """

    epoch: int
    step: int
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


PairMessage = Solicit | NoiseStep | Ready | Refused


def encode(message: PairMessage) -> bytes:
    match message:
        case Solicit():
            return Writer().u8(PairKind.SOLICIT).done()
        case NoiseStep(epoch, step, password_id, body):
            out = Writer().u8(PairKind.NOISE).u16(epoch).u8(step).text(password_id)
            return out.block(body).done()
        case Ready(epoch, sealed):
            return Writer().u8(PairKind.READY).u16(epoch).block(sealed).done()
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
            epoch, step = reader.u16(), reader.u8()
            if not (epoch and 1 <= step <= 3):
                raise MalformedMessageError(f"epoch {epoch}, step {step}")
            message = NoiseStep(epoch, step, reader.text(limit=32), reader.block(limit=MAX_NOISE))
        case PairKind.READY:
            message = Ready(reader.u16(), reader.block(limit=64))
        case PairKind.REFUSED:
            message = Refused(reader.u16(), reader.text(limit=48))
        case _:
            raise MalformedMessageError(f"pair message of kind {kind}")
    reader.end()
    return message
