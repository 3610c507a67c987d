"""protocol.md 1: identity, name, signatures."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.crypto.identity import Identity, verify
from mesh.names import PeerName

ONE, TWO = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))


def test_known_answer() -> None:
    """protocol.md 1.1: RFC 8032 section 7.1, test 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    identity = Identity.from_seed(seed)
    assert identity.public_key == public
    assert identity.name == PeerName(sha256(public).digest()[:8])
    assert str(identity.name) == identity.name.octets.hex(":")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_seeds_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match="32 octets"):
        Identity.from_seed(bytes(size))


def test_a_signature_is_for_one_context_one_message_and_one_key() -> None:
    """protocol.md 1.2"""
    signature = ONE.sign(b"context", b"message")
    assert len(signature) == 64
    assert verify(ONE.public_key, b"context", b"message", signature)
    assert not verify(ONE.public_key, b"other", b"message", signature)
    assert not verify(ONE.public_key, b"context", b"massage", signature)
    assert not verify(TWO.public_key, b"context", b"message", signature)
    assert not verify(ONE.public_key, b"contextm", b"essage", signature)
    assert not verify(ONE.public_key, b"context", b"message", signature[:-1] + b"\0")


@given(st.binary(max_size=80), st.binary(max_size=20), st.binary(max_size=80))
@settings(deadline=None)
def test_verify_never_raises(key: bytes, message: bytes, signature: bytes) -> None:
    assert not verify(key, b"context", message, signature)
    assert not verify(ONE.public_key, b"context", message, signature)
