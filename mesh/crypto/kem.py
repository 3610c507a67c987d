"""The door to ML-KEM-768 (FIPS 203): the post-quantum half of every key agreement.

``mesh.drivers.kem.SystemKem`` is the real one. Encapsulation draws its own randomness inside the
library, so the simulator, whose runs must replay, brings a twin of the same sizes.
"""

from __future__ import annotations

from typing import Protocol

SEED_SIZE = 64
"""Octets of the seed ``d || z`` of a key pair."""

PUBLIC_KEY_SIZE = 1184
CIPHERTEXT_SIZE = 1088
SECRET_SIZE = 32


class KemPrivate(Protocol):
    """The private half of one key pair, used once."""

    @property
    def public(self) -> bytes: ...

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret. A forged ciphertext gives another secret, never an error."""
        ...


class Kem(Protocol):
    def generate(self, seed: bytes) -> KemPrivate:
        """The key pair of a 64-octet seed."""
        ...

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """(ciphertext, shared secret) for a public key; ValueError when it is not one."""
        ...
