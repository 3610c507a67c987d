"""ML-KEM-768 as ``cryptography`` gives it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)

from mesh.crypto.kem import CIPHERTEXT_SIZE


class SystemKemPrivate:
    def __init__(self, seed: bytes) -> None:
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if len(ciphertext) != CIPHERTEXT_SIZE:
            raise ValueError(f"an ML-KEM-768 ciphertext has {CIPHERTEXT_SIZE} octets")
        return self._key.decapsulate(ciphertext)


class SystemKem:
    def generate(self, seed: bytes) -> SystemKemPrivate:
        return SystemKemPrivate(seed)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
        return ciphertext, secret
