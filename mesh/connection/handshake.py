"""Who are we, who are they: the Noise handshake and the identities inside it.

Used by control connections (``mesh.connection.connection``) and by the end-to-end keys of a pair
(``mesh.link.epochs``); it knows no framing, no time and no transport. Three messages of Noise XX,
with a pre-shared key in the third when there is a password, and ML-KEM-768 beside the first DH.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh.connection.reasons import Refusal
from mesh.crypto.identity import Identity, verify
from mesh.crypto.kem import Kem
from mesh.crypto.noise import (
    CipherState,
    HandshakeState,
    NoiseError,
    PayloadError,
    ProtocolName,
)
from mesh.crypto.password import PasswordRing
from mesh.errors import MalformedMessageError, PeerError
from mesh.names import PeerName, PeerUID
from mesh.wire.handshake import HELLO_CONTEXT, Hello

WITH_PASSWORD = ProtocolName.parse("Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA256")
WITHOUT_PASSWORD = ProtocolName.parse("Noise_XXhfs_25519+MLKEM768_AESGCM_SHA256")

_NOTHING: Mapping[str, str] = {}


class RefusedError(PeerError):
    """The other end is not to be talked to; ``word`` is the stable reason."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


@dataclass(frozen=True, slots=True)
class Local:
    """What we say of ourselves at a handshake."""

    identity: Identity
    uid: PeerUID
    nickname: str
    port: int
    probe_port: int
    sleeve_port: int
    passwords: PasswordRing
    features: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remote:
    """Who the other end proved to be. ``key`` is 32 octets that only the two ends know."""

    name: PeerName
    public_key: bytes
    uid: PeerUID
    nickname: str
    port: int
    probe_port: int
    sleeve_port: int
    features: Mapping[str, str]
    password_id: str | None
    version: int
    key: bytes
    handshake_hash: bytes


class IdentityHandshake:
    """Three Noise messages that carry a ``Hello`` each way. Raises RefusedError, once."""

    def __init__(
        self,
        local: Local,
        *,
        initiator: bool,
        prologue: bytes,
        psk: bytes | None,
        kem: Kem,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._local = local
        self.initiator = initiator
        static = entropy(32)
        self._noise = HandshakeState(
            WITHOUT_PASSWORD if psk is None else WITH_PASSWORD,
            initiator=initiator,
            prologue=prologue,
            entropy=entropy,
            s=static,
            psk=psk,
            kem=kem,
        )
        self._has_psk = psk is not None
        self.hello: Hello | None = None

    @property
    def is_finished(self) -> bool:
        return self._noise.is_finished

    def write(self, features: Mapping[str, str] = _NOTHING) -> bytes:
        """Our next message: 1 or 3 as the initiator, 2 as the responder.

        ``features`` are said in its hello, beside those of ``Local``.
        """
        first = self.initiator and self.hello is None
        try:
            return self._noise.write(b"" if first else self._our_hello(features))
        except NoiseError as err:
            raise RefusedError(Refusal.HANDSHAKE_FAILED) from err

    def read(self, message: bytes) -> None:
        """Their next message; once they said hello, ``hello`` is who they proved to be."""
        last = not self.initiator and self._noise.messages_done == 2 and self._has_psk
        try:
            payload = self._noise.read(message)
        except PayloadError as err:
            # Only the payload of message 3 needs the pre-shared key; all before it opened.
            word = Refusal.WRONG_PASSWORD if last else Refusal.HANDSHAKE_FAILED
            raise RefusedError(word) from err
        except NoiseError as err:
            raise RefusedError(Refusal.HANDSHAKE_FAILED) from err
        if self._noise.messages_done >= 2:
            self._check(payload)

    def split(self) -> tuple[CipherState, CipherState]:
        return self._noise.split()

    def export(self, label: bytes) -> bytes:
        return self._noise.symmetric.export(label)

    @property
    def handshake_hash(self) -> bytes:
        return self._noise.symmetric.h

    def _our_hello(self, features: Mapping[str, str]) -> bytes:
        local = self._local
        signed = Hello.signed_part(self._noise.static_public, local.uid)
        return Hello(
            public_key=local.identity.public_key,
            signature=local.identity.sign(HELLO_CONTEXT, signed),
            uid=local.uid,
            nickname=local.nickname,
            port=local.port,
            probe_port=local.probe_port,
            sleeve_port=local.sleeve_port,
            features=tuple(sorted({**local.features, **features}.items())),
        ).encode()

    def _check(self, payload: bytes) -> None:
        try:
            hello = Hello.decode(payload)
        except MalformedMessageError as err:
            raise RefusedError(Refusal.MALFORMED) from err
        assert self._noise.rs is not None
        signed = Hello.signed_part(self._noise.rs, hello.uid)
        if not verify(hello.public_key, HELLO_CONTEXT, signed, hello.signature):
            raise RefusedError(Refusal.BAD_IDENTITY)
        if hello.public_key == self._local.identity.public_key:
            same = hello.uid == self._local.uid
            raise RefusedError(Refusal.SELF if same else Refusal.CLONE)
        self.hello = hello
