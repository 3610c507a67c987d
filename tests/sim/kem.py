"""A key encapsulation that replays: the sizes of ML-KEM-768, hashes for mathematics."""

from __future__ import annotations

from hashlib import sha256, shake_256

from mesh.crypto.kem import CIPHERTEXT_SIZE, PUBLIC_KEY_SIZE


def _secret(public: bytes, ciphertext: bytes) -> bytes:
    return sha256(b"secret" + public + ciphertext).digest()


class SimKemPrivate:
    def __init__(self, seed: bytes) -> None:
        self.public = shake_256(b"public" + seed).digest(PUBLIC_KEY_SIZE)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return _secret(self.public, ciphertext)


class SimKem:
    """Secure against nobody, deterministic for everybody."""

    def __init__(self) -> None:
        self._count = 0

    def generate(self, seed: bytes) -> SimKemPrivate:
        return SimKemPrivate(seed)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        if len(public) != PUBLIC_KEY_SIZE:
            raise ValueError("not a public key")
        self._count += 1
        label = self._count.to_bytes(8, "big")
        ciphertext = shake_256(b"ciphertext" + label + public).digest(CIPHERTEXT_SIZE)
        return ciphertext, _secret(public, ciphertext)
