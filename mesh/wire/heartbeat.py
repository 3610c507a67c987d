"""What a control frame of fastdp carries: a question or its answer (docs/protocol.md 14.5).

::

    kind u8 (1 question, 2 answer) | nonce u64 | size u16 | zeroes, so that all have ``size`` octets
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Self

from mesh.errors import MalformedMessageError

QUESTION, ANSWER = 1, 2
_HEAD = Struct("!BQH")


@dataclass(frozen=True, slots=True)
class Beat:
    """``size``: octets of the whole, which is to frames what an IP packet is."""

    kind: int
    nonce: int
    size: int

    def encode(self) -> bytes:
        return _HEAD.pack(self.kind, self.nonce, self.size).ljust(self.size, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises MalformedMessageError, also where it is not of the size that it says: a part of a
        heartbeat proves nothing of the rest."""
        if len(data) < _HEAD.size:
            raise MalformedMessageError(f"a heartbeat of {len(data)} octets")
        kind, nonce, size = _HEAD.unpack_from(data)
        if kind not in (QUESTION, ANSWER) or size != len(data):
            raise MalformedMessageError(f"a heartbeat of kind {kind}, {len(data)} of {size} octets")
        return cls(kind, nonce, size)
