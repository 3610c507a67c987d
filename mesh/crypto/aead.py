"""What seals and opens records of the data path, by the cipher a pair agreed on."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from mesh.wire.cipher import Cipher

Aead = AESGCM | ChaCha20Poly1305
"""Both take 12 octets of nonce, give 16 of tag, and work in place."""

AEADS: dict[Cipher, type[Aead]] = {
    Cipher.AES_256_GCM: AESGCM,
    Cipher.CHACHA20_POLY1305: ChaCha20Poly1305,
}
