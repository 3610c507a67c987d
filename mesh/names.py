"""Who a peer is: its permanent name, its UID per start, its short ID in the data plane."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import NewType, Self

ShortID = NewType("ShortID", int)
"""12-bit peer identifier of the data plane, 1 to 4095; two fit the 24-bit VNI of VXLAN."""

PeerUID = NewType("PeerUID", int)
"""64-bit random number per process start: tells a restarted peer from its former self."""

NAME_SIZE = 8
"""Octets of a peer name."""


class PeerName(bytes):
    """A peer's permanent name: the first 8 octets of SHA-256 of its Ed25519 public key.

    Octets by inheritance, so that the tables of a large mesh hash and compare them in C.
    """

    __slots__ = ()

    def __new__(cls, octets: bytes) -> Self:
        if len(octets) != NAME_SIZE:
            raise ValueError(f"peer name needs {NAME_SIZE} octets, got {len(octets)}")
        return super().__new__(cls, octets)

    def __str__(self) -> str:
        return self.hex(":")

    def __repr__(self) -> str:
        return f"PeerName.parse({self.hex(':')!r})"

    @property
    def octets(self) -> bytes:
        """The name as it goes over the wire."""
        return self

    @classmethod
    def of(cls, public_key: bytes) -> Self:
        """Name the holder of this Ed25519 public key (32 octets)."""
        return cls(sha256(public_key).digest()[:NAME_SIZE])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the printed form, colons optional; raise ValueError on anything else."""
        return cls(bytes.fromhex(text.replace(":", "")))


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An underlay address as numbers: IP address text (no zone, no brackets) and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
