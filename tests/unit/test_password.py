"""protocol.md 2.6: passwords, the ring, the file."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mesh.crypto.password import (
    MAX_PASSWORD,
    MAX_PASSWORDS,
    Password,
    PasswordRing,
    derive,
    parse_password_file,
)
from mesh.errors import OperatorError


def test_the_key_is_argon2id_with_the_documented_parameters() -> None:
    """protocol.md 2.6: 64 MiB, 3 passes, 4 lanes, a fixed salt: one key on every host."""
    expected = Argon2id(
        salt=b"weaver mesh password v1", length=32, iterations=3, lanes=4, memory_cost=65536
    ).derive("pässword".encode())
    assert derive("one", "pässword") == Password("one", expected)


def test_the_key_does_not_depend_on_its_id() -> None:
    assert derive("a", "same").psk == derive("b", "same").psk != derive("a", "other").psk


def test_a_password_is_not_printed() -> None:
    assert repr(Password("x", b"secret" * 5 + b"!!")) == "Password(id='x')"


@pytest.mark.parametrize(
    ("id", "password"),
    [
        ("", "p"),
        ("a b", "p"),
        ("x" * 33, "p"),
        ("ok", ""),
        ("ok", "x" * (MAX_PASSWORD + 1)),
        ("ok", "\udcff"),
    ],
)
def test_bad_passwords(id: str, password: str) -> None:
    with pytest.raises(OperatorError) as caught:
        derive(id, password)
    assert caught.value.reason == "bad-password"


def test_the_ring() -> None:
    ring = PasswordRing((Password("new", b"n" * 32), Password("old", b"o" * 32)))
    assert ring
    assert ring.ids == ("new", "old")
    assert ring.psk("old") == b"o" * 32
    assert ring.psk("none") is None
    assert not PasswordRing()
    with pytest.raises(OperatorError):
        PasswordRing((Password("a", b""), Password("a", b"")))
    with pytest.raises(OperatorError):
        PasswordRing(tuple(Password(str(n), b"") for n in range(MAX_PASSWORDS + 1)))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("secret", [("default", "secret")]),
        ("secret\n", [("default", "secret")]),
        ("# a comment\n\n new:s1 \r\nold:s2\n", [("new", "s1"), ("old", "s2")]),
        ("id:with:colons", [("id", "with:colons")]),
        ("not an id:secret", [("default", "not an id:secret")]),
        (":secret", [("default", ":secret")]),
    ],
)
def test_password_files(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_password_file(text) == pairs


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "id:"])
def test_password_files_without_a_password(text: str) -> None:
    with pytest.raises(OperatorError):
        parse_password_file(text)
    assert parse_password_file(text + "\nnext") if text != "id:" else True
