"""The Noise protocol framework, revision 34, with the hybrid forward secrecy extension.

The object names, and the steps inside them, are those of the specification's section 5
(noiseprotocol.org); ``e1`` and ``ekem1`` are the extension's KEM tokens. Only X25519 and SHA-256
with AES-256-GCM or ChaCha20-Poly1305 are here: what we speak, and what its vectors check.

Who drives it: ``mesh.connection.connection`` and ``mesh.link.epochs``. One pattern, one object;
``write`` and ``read`` alternate until ``is_finished``. A message that does not open raises
``NoiseError`` and leaves the object unusable: its transcript is spoilt, so the owner fails.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from mesh.crypto.kem import CIPHERTEXT_SIZE, PUBLIC_KEY_SIZE, Kem, KemPrivate
from mesh.crypto.kem import SEED_SIZE as KEM_SEED_SIZE
from mesh.errors import MisuseError, PeerError

DH_SIZE = 32
TAG_SIZE = 16
MAX_NONCE = 2**64 - 1
"""Reserved for REKEY; a cipher that got there is exhausted."""

PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    # name: (initiator's pre-message, responder's pre-message, messages)
    "XX": ((), (), (("e",), ("e", "ee", "s", "es"), ("s", "se"))),
    "IK": ((), ("s",), (("e", "es", "s", "ss"), ("e", "ee", "se"))),
    "KK": (("s",), ("s",), (("e", "es", "ss"), ("e", "ee", "se"))),
}


class NoiseError(PeerError):
    """A handshake message that does not open or does not parse."""

    reason = "handshake-failed"


class PayloadError(NoiseError):
    """A message whose keys opened and whose payload does not: the pre-shared keys differ."""


def _nonce_be(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "big")


def _nonce_le(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


CIPHERS: dict[str, tuple[type[AESGCM | ChaCha20Poly1305], Callable[[int], bytes]]] = {
    "AESGCM": (AESGCM, _nonce_be),
    "ChaChaPoly": (ChaCha20Poly1305, _nonce_le),
}


class CipherState:
    """Section 5.1: a key and the number of the next message under it."""

    def __init__(self, cipher: str, key: bytes | None = None) -> None:
        self._kind, self._nonce = CIPHERS[cipher]
        self._aead: AESGCM | ChaCha20Poly1305 | None = None
        self.counter = 0
        if key is not None:
            self.set_key(key)

    @property
    def has_key(self) -> bool:
        return self._aead is not None

    def set_key(self, key: bytes) -> None:
        self._aead = self._kind(key)
        self.counter = 0

    def encrypt(self, ad: bytes, plaintext: bytes) -> bytes:
        if self._aead is None:
            return plaintext
        ciphertext = self._aead.encrypt(self._nonce(self._take()), plaintext, ad)
        self.counter += 1
        return ciphertext

    def decrypt(self, ad: bytes, ciphertext: bytes) -> bytes:
        """Open a message; the counter moves on only when it does. Raises NoiseError."""
        if self._aead is None:
            return ciphertext
        try:
            plaintext = self._aead.decrypt(self._nonce(self._take()), ciphertext, ad)
        except InvalidTag as err:
            raise NoiseError("a message does not open") from err
        self.counter += 1
        return plaintext

    def rekey(self) -> None:
        """Section 4.2 REKEY: a new key from the old one, which cannot be found from it."""
        if self._aead is None:
            raise MisuseError("rekey without a key")
        self._aead = self._kind(self._aead.encrypt(self._nonce(MAX_NONCE), bytes(32), b"")[:32])

    def _take(self) -> int:
        if self.counter >= MAX_NONCE:
            raise MisuseError("a cipher's counter is exhausted")
        return self.counter


def hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """Section 4.3 HKDF: 2 or 3 outputs of 32 octets."""
    temp = hmac.digest(chaining_key, material, "sha256")
    out: list[bytes] = []
    last = b""
    for n in range(1, outputs + 1):
        last = hmac.digest(temp, last + bytes((n,)), "sha256")
        out.append(last)
    return out


class SymmetricState:
    """Section 5.2: the running hash of everything said, and the key that follows from it."""

    def __init__(self, protocol_name: str, cipher: str) -> None:
        name = protocol_name.encode()
        self.h = name.ljust(32, b"\0") if len(name) <= 32 else sha256(name).digest()
        self.ck = self.h
        self._cipher_name = cipher
        self.cipher = CipherState(cipher)

    def mix_key(self, material: bytes) -> None:
        self.ck, key = hkdf(self.ck, material, 2)
        self.cipher.set_key(key)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def mix_key_and_hash(self, material: bytes) -> None:
        self.ck, temp, key = hkdf(self.ck, material, 3)
        self.mix_hash(temp)
        self.cipher.set_key(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self.cipher.encrypt(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self.cipher.decrypt(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = hkdf(self.ck, b"", 2)
        return CipherState(self._cipher_name, first), CipherState(self._cipher_name, second)

    def export(self, label: bytes) -> bytes:
        """32 octets that only the two ends know, bound to the whole handshake.

        Outside the specification, in the manner of its section 11.2: an HMAC under the final
        chaining key, over a label no HKDF step can produce, then the handshake hash.
        """
        return hmac.digest(self.ck, b"weaver export\0" + label + b"\0" + self.h, "sha256")


@dataclass(frozen=True, slots=True)
class ProtocolName:
    """``Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA256`` and its like, taken apart."""

    text: str
    pattern: str
    modifiers: tuple[str, ...]
    cipher: str

    @classmethod
    def parse(cls, text: str) -> ProtocolName:
        """Raises MisuseError for a protocol that is not here."""
        prefix, handshake, dh, cipher, digest = text.split("_")
        pattern = "".join(c for c in handshake.split("+")[0] if c.isupper() or c.isdigit())
        pattern = pattern.rstrip("0123456789")
        modifiers = tuple(m for m in handshake[len(pattern) :].split("+") if m)
        known = pattern in PATTERNS and cipher in CIPHERS and digest == "SHA256"
        wants_kem = "hfs" in modifiers
        # The extension's text and its table differ on patterns with a DH in their first message.
        known = known and (not wants_kem or pattern == "XX")
        if prefix != "Noise" or not known or dh != ("25519+MLKEM768" if wants_kem else "25519"):
            raise MisuseError(f"no Noise protocol {text} here")
        return cls(text, pattern, modifiers, cipher)

    def messages(self) -> list[list[str]]:
        """The pattern's message tokens with the modifiers' tokens in place."""
        messages = [list(tokens) for tokens in PATTERNS[self.pattern][2]]
        if "hfs" in self.modifiers:
            messages[0].insert(messages[0].index("e") + 1, "e1")
            messages[1].insert(messages[1].index("ee") + 1, "ekem1")
        for modifier in self.modifiers:
            if modifier.startswith("psk"):
                place = int(modifier[3:])
                if place == 0:
                    messages[0].insert(0, "psk")
                else:
                    messages[place - 1].append("psk")
        return messages


class HandshakeState:
    """Section 5.3. Keys are raw octets; ``entropy`` supplies the ephemerals'."""

    def __init__(
        self,
        protocol: ProtocolName,
        *,
        initiator: bool,
        prologue: bytes,
        entropy: Callable[[int], bytes],
        s: bytes | None = None,
        rs: bytes | None = None,
        psk: bytes | None = None,
        kem: Kem | None = None,
    ) -> None:
        self._initiator, self._entropy, self._kem = initiator, entropy, kem
        self._psk = psk
        self._uses_psk = any(m.startswith("psk") for m in protocol.modifiers)
        self._messages = protocol.messages()
        self._at = 0
        self._s = None if s is None else X25519PrivateKey.from_private_bytes(s)
        self._e: X25519PrivateKey | None = None
        self._e1: KemPrivate | None = None
        self._re1: bytes | None = None
        self._re: bytes | None = None
        self.rs = rs
        self.symmetric = SymmetricState(protocol.text, protocol.cipher)
        self.symmetric.mix_hash(prologue)
        ours, theirs = PATTERNS[protocol.pattern][:2]
        if not initiator:
            ours, theirs = theirs, ours
        local = () if not ours else (self._static_public(),)
        remote = () if not theirs else (self._known(rs),)
        for key in (local + remote) if initiator else (remote + local):
            self.symmetric.mix_hash(key)

    @property
    def is_finished(self) -> bool:
        return self._at == len(self._messages)

    @property
    def is_our_turn(self) -> bool:
        return not self.is_finished and (self._at % 2 == 0) == self._initiator

    @property
    def messages_done(self) -> int:
        """Messages written or read so far."""
        return self._at

    @property
    def static_public(self) -> bytes:
        """Our own static public key."""
        return self._static_public()

    def write(self, payload: bytes) -> bytes:
        """Our next message. Raises NoiseError when the other end's keys are no keys."""
        if not self.is_our_turn:
            raise MisuseError("write() out of turn")
        out = [self._write_token(token) for token in self._messages[self._at]]
        out.append(self.symmetric.encrypt_and_hash(payload))
        self._at += 1
        return b"".join(out)

    def read(self, message: bytes) -> bytes:
        """The payload of their next message. Raises NoiseError."""
        if self.is_our_turn or self.is_finished:
            raise MisuseError("read() out of turn")
        rest = message
        for token in self._messages[self._at]:
            rest = self._read_token(token, rest)
        try:
            payload = self.symmetric.decrypt_and_hash(rest)
        except NoiseError as err:
            raise PayloadError("a payload does not open") from err
        self._at += 1
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """(ours to send with, ours to receive with)."""
        if not self.is_finished:
            raise MisuseError("split() before the end of the handshake")
        first, second = self.symmetric.split()
        return (first, second) if self._initiator else (second, first)

    # ---- tokens

    def _write_token(self, token: str) -> bytes:
        state = self.symmetric
        match token:
            case "e":
                self._e = X25519PrivateKey.from_private_bytes(self._entropy(DH_SIZE))
                public = self._e.public_key().public_bytes_raw()
                state.mix_hash(public)
                if self._uses_psk:
                    state.mix_key(public)
                return public
            case "s":
                return state.encrypt_and_hash(self._static_public())
            case "e1":
                assert self._kem is not None
                self._e1 = self._kem.generate(self._entropy(KEM_SEED_SIZE))
                return state.encrypt_and_hash(self._e1.public)
            case "ekem1":
                assert self._kem is not None
                try:
                    ciphertext, secret = self._kem.encapsulate(self._known(self._re1))
                except ValueError as err:
                    raise NoiseError("not an ML-KEM-768 public key") from err
                sealed = state.encrypt_and_hash(ciphertext)
                state.mix_key(secret)
                return sealed
            case _:
                self._mix(token)
                return b""

    def _read_token(self, token: str, rest: bytes) -> bytes:
        state = self.symmetric
        extra = TAG_SIZE if state.cipher.has_key else 0
        match token:
            case "e":
                self._re, rest = self._cut(rest, DH_SIZE)
                state.mix_hash(self._re)
                if self._uses_psk:
                    state.mix_key(self._re)
            case "s":
                sealed, rest = self._cut(rest, DH_SIZE + extra)
                self.rs = state.decrypt_and_hash(sealed)
            case "e1":
                sealed, rest = self._cut(rest, PUBLIC_KEY_SIZE + extra)
                self._re1 = state.decrypt_and_hash(sealed)
            case "ekem1":
                sealed, rest = self._cut(rest, CIPHERTEXT_SIZE + extra)
                ciphertext = state.decrypt_and_hash(sealed)
                assert self._e1 is not None
                state.mix_key(self._e1.decapsulate(ciphertext))
            case _:
                self._mix(token)
        return rest

    def _mix(self, token: str) -> None:
        if token == "psk":  # noqa: S105  # a token's name, not a secret
            if self._psk is None:
                raise MisuseError("the pattern wants a pre-shared key and has none")
            self.symmetric.mix_key_and_hash(self._psk)
            return
        ours_first = self._initiator or token in ("ee", "ss")
        mine, theirs = (token[0], token[1]) if ours_first else (token[1], token[0])
        private = self._e if mine == "e" else self._s
        public = self._re if theirs == "e" else self.rs
        if private is None:
            raise MisuseError(f"token {token} before its key")
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(self._known(public)))
        except ValueError as err:
            raise NoiseError("a public key of low order") from err
        self.symmetric.mix_key(shared)

    def _static_public(self) -> bytes:
        if self._s is None:
            raise MisuseError("the pattern wants a static key and has none")
        return self._s.public_key().public_bytes_raw()

    @staticmethod
    def _known(key: bytes | None) -> bytes:
        if key is None:
            raise MisuseError("a key of the other end is missing")
        return key

    @staticmethod
    def _cut(data: bytes, size: int) -> tuple[bytes, bytes]:
        if len(data) < size:
            raise NoiseError(f"a handshake message of {len(data)} octets is cut short")
        return data[:size], data[size:]
