"""A peer's identity: an Ed25519 key pair whose public half gives the peer its name.

Every signature is over ``context || 0x00 || message``: one made for a topology record can never
pass for one of another kind. Source: RFC 8032.
"""

from __future__ import annotations

from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from mesh.names import PeerName

SEED_SIZE = 32
PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64


class Identity:
    """The private half. Never leaves the process but as its seed in the state directory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.name = PeerName.of(self.public_key)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Make the key pair of a 32-octet seed; raise ValueError for any other length."""
        if len(seed) != SEED_SIZE:
            raise ValueError(f"an identity seed has {SEED_SIZE} octets, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Sign a message of one kind; 64 octets."""
        return self._key.sign(context + b"\0" + message)


def verify(public_key: bytes, context: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of ``public_key`` signed this. Never raises, whatever it is given."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, context + b"\0" + message)
    except (InvalidSignature, ValueError):
        return False
    return True
