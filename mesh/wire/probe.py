"""Liveness probes between neighbours, by UDP (docs/protocol.md 9.1).

::

    "wvp1" | sender 8 | receiver 8 | sequence u32 | echo u32 | held µs u32 | tag 16

``echo`` is the newest sequence heard of the other end (0: none), ``held`` how long ago in
microseconds; the tag is HMAC-SHA256 under the connection's own key, cut to 16 octets.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from struct import Struct
from typing import Self

from mesh.errors import MalformedMessageError
from mesh.names import PeerName

MAGIC = b"wvp1"
_LAYOUT = Struct("!4s8s8sIII")
TAG_SIZE = 16
SIZE = _LAYOUT.size + TAG_SIZE


class ForgedProbeError(MalformedMessageError):
    """Made without the connection's key, or altered."""

    reason = "forged"


@dataclass(frozen=True, slots=True)
class Probe:
    sender: PeerName
    receiver: PeerName
    sequence: int
    echo: int
    held_us: int

    def encode(self, key: bytes) -> bytes:
        body = _LAYOUT.pack(
            MAGIC,
            self.sender.octets,
            self.receiver.octets,
            self.sequence,
            self.echo,
            self.held_us,
        )
        return body + hmac.digest(key, body, "sha256")[:TAG_SIZE]

    @classmethod
    def decode(cls, data: bytes, key: bytes) -> Self:
        """Raises MalformedMessageError; ForgedProbeError for a tag that is not this key's."""
        _check_form(data)
        body, tag = data[:-TAG_SIZE], data[-TAG_SIZE:]
        if not hmac.compare_digest(hmac.digest(key, body, "sha256")[:TAG_SIZE], tag):
            raise ForgedProbeError("a probe whose tag is wrong")
        _, sender, receiver, sequence, echo, held = _LAYOUT.unpack(body)
        return cls(PeerName(sender), PeerName(receiver), sequence, echo, held)


def probe_sender(data: bytes) -> PeerName:
    """Who a probe says it is from, before its tag is checked. Raises MalformedMessageError."""
    _check_form(data)
    return PeerName(data[4:12])


def _check_form(data: bytes) -> None:
    if len(data) != SIZE or data[:4] != MAGIC:
        raise MalformedMessageError("not a probe")
