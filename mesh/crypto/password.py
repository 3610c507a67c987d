"""Passwords of a mesh: a ring of several, so that one can follow another without downtime.

A password becomes a pre-shared key by Argon2id (RFC 9106) with fixed parameters and salt: every
host must come to the same key with nobody to ask for a salt. The cost is what protects a weak
password from whoever recorded a handshake; a long random one needs no protection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mesh.errors import OperatorError

MEMORY_KIB = 64 * 1024
ITERATIONS = 3
LANES = 4
"""RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes; about 0.1 s."""

SALT = b"weaver mesh password v1"
KEY_SIZE = 32

MAX_PASSWORDS = 8
"""Passwords valid at once: a rotation needs two."""

MAX_PASSWORD = 1024
"""Octets of one password."""

DEFAULT_ID = "default"
_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True, slots=True)
class Password:
    """A pre-shared key under the id that both ends call it by."""

    id: str
    psk: bytes

    def __repr__(self) -> str:
        return f"Password(id={self.id!r})"


def derive(id: str, password: str) -> Password:  # the field's word
    """The pre-shared key of a password. Takes about 0.1 s and 64 MiB, on purpose."""
    if not _ID.fullmatch(id):
        raise OperatorError(f"password id {id!r}: 1 to 32 of A-Z a-z 0-9 . _ -", "bad-password")
    try:
        secret = password.encode()
    except UnicodeEncodeError as err:
        raise OperatorError("a password is text in UTF-8", "bad-password") from err
    if not 0 < len(secret) <= MAX_PASSWORD:
        raise OperatorError(f"a password has 1 to {MAX_PASSWORD} octets", "bad-password")
    kdf = Argon2id(
        salt=SALT, length=KEY_SIZE, iterations=ITERATIONS, lanes=LANES, memory_cost=MEMORY_KIB
    )
    return Password(id, kdf.derive(secret))


@dataclass(frozen=True, slots=True)
class PasswordRing:
    """The passwords that are valid now, the preferred one first; none means no password."""

    passwords: tuple[Password, ...] = ()

    def __post_init__(self) -> None:
        ids = [p.id for p in self.passwords]
        if len(set(ids)) != len(ids):
            raise OperatorError(f"two passwords have one id: {', '.join(ids)}", "bad-password")
        if len(ids) > MAX_PASSWORDS:
            raise OperatorError(f"at most {MAX_PASSWORDS} passwords at once", "bad-password")

    def __bool__(self) -> bool:
        return bool(self.passwords)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(p.id for p in self.passwords)

    def psk(self, id: str) -> bytes | None:
        return next((p.psk for p in self.passwords if p.id == id), None)

    @classmethod
    def derive(cls, pairs: list[tuple[str, str]]) -> Self:
        """Derive every (id, password) of a parsed file."""
        return cls(tuple(derive(id, password) for id, password in pairs))


def parse_password_file(text: str) -> list[tuple[str, str]]:
    """Read ``id:password`` or bare ``password`` lines; ``#`` begins a comment line.

    A bare password, or one whose part before the colon is no id, goes by the id "default".
    Raises OperatorError.
    """
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        id, colon, password = stripped.partition(":")
        if not colon or not _ID.fullmatch(id):
            id, password = DEFAULT_ID, stripped
        if not password:
            raise OperatorError(f"line {number} of the password file: no password", "bad-password")
        pairs.append((id, password))
    if not pairs:
        raise OperatorError("the password file holds no password", "bad-password")
    return pairs
