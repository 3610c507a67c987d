"""Probes of direct paths that are out, and what is in them (docs/protocol.md 10.6)."""

from __future__ import annotations

from mesh.clock import Instant
from mesh.errors import MalformedMessageError
from mesh.wire.sleeve import HEADER_SIZE, PROBE_BODY, TAG_SIZE

MAX_PROBES = 4096
"""Probes whose answers are waited for; the oldest are given up."""


def overhead(*, encrypted: bool) -> int:
    """Octets of a datagram that are not payload."""
    return HEADER_SIZE + (TAG_SIZE if encrypted else 0)


def body(number: int, size: int, *, octets: int = 0) -> bytes:
    """A probe about ``size`` octets of UDP payload, padded to ``octets`` of its own."""
    return PROBE_BODY.pack(number, size).ljust(octets, b"\0")


def parse(data: bytes) -> tuple[int, int]:
    """(nonce, size) of a probe's or a reply's body. Raises MalformedMessageError."""
    if len(data) < PROBE_BODY.size:
        raise MalformedMessageError(f"probe of {len(data)} octets")
    number, size = PROBE_BODY.unpack_from(data)
    return number, size


class Probes:
    def __init__(self) -> None:
        self._out: dict[int, tuple[int, Instant]] = {}

    def sent(self, number: int, size: int, now: Instant) -> None:
        while len(self._out) >= MAX_PROBES:
            del self._out[next(iter(self._out))]
        self._out[number] = (size, now)

    def answered(self, number: int, size: int, now: Instant) -> float | None:
        """The round trip of the probe that this answers, in seconds; None of none that is out."""
        sent = self._out.get(number)
        if sent is None or sent[0] != size:
            return None
        del self._out[number]
        return now - sent[1]
