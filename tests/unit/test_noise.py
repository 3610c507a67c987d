"""protocol.md 2.4: the Noise handshake, held to published vectors and to an oracle."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from noise.connection import Keypair, NoiseConnection

from mesh.crypto.noise import HandshakeState, NoiseError, ProtocolName
from mesh.drivers.kem import SystemKem
from mesh.errors import MisuseError
from tests.sim.kem import SimKem

DATA = Path(__file__).parent.parent / "data"
VECTORS = json.loads((DATA / "noise-vectors.json").read_text())["vectors"]
KATS = json.loads((DATA / "mlkem768-kat.json").read_text())["vectors"]
HYBRID = ProtocolName.parse("Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA256")


def fixed(octets: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN201  # a queue of entropy
    return lambda size: octets[:size]


def unhex(vector: dict[str, str], key: str) -> bytes | None:
    return bytes.fromhex(vector[key]) if vector.get(key) else None


def side(vector: dict[str, object], who: str) -> HandshakeState:
    psks = vector.get(f"{who}_psks") or []
    assert isinstance(psks, list)
    return HandshakeState(
        ProtocolName.parse(str(vector["protocol_name"])),
        initiator=who == "init",
        prologue=bytes.fromhex(str(vector[f"{who}_prologue"])),
        entropy=fixed(bytes.fromhex(str(vector[f"{who}_ephemeral"]))),
        s=unhex(vector, f"{who}_static"),  # type: ignore[arg-type]  # JSON of known shape
        rs=unhex(vector, f"{who}_remote_static"),  # type: ignore[arg-type]  # as above
        psk=bytes.fromhex(psks[0]) if psks else None,
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['file']}-{v['protocol_name']}")
def test_published_vectors(vector: dict[str, object]) -> None:
    """protocol.md 2.4: every message and the handshake hash, octet for octet."""
    writer, reader = side(vector, "init"), side(vector, "resp")
    messages = vector["messages"]
    assert isinstance(messages, list)
    transport = list(messages)
    while not writer.is_finished or not reader.is_finished:
        message = transport.pop(0)
        payload, ciphertext = (bytes.fromhex(message[k]) for k in ("payload", "ciphertext"))
        assert writer.write(payload) == ciphertext
        assert reader.read(ciphertext) == payload
        writer, reader = reader, writer
    if "handshake_hash" in vector:
        assert writer.symmetric.h.hex() == reader.symmetric.h.hex() == vector["handshake_hash"]
    assert transport  # the vectors go on with transport messages
    senders = (writer.split()[0], reader.split()[0])
    receivers = (reader.split()[1], writer.split()[1])
    for n, message in enumerate(transport):
        payload, ciphertext = (bytes.fromhex(message[k]) for k in ("payload", "ciphertext"))
        assert senders[n % 2].encrypt(b"", payload) == ciphertext
        assert receivers[n % 2].decrypt(b"", ciphertext) == payload


def test_no_vector_was_left_out() -> None:
    assert len(VECTORS) == 14
    assert len(KATS) == 20


@pytest.mark.parametrize("kat", KATS, ids=range(len(KATS)))
def test_ml_kem_known_answers(kat: dict[str, str]) -> None:
    """protocol.md 2.5: ML-KEM-768 as in FIPS 203."""
    key = SystemKem().generate(bytes.fromhex(kat["d"] + kat["z"]))
    assert key.public.hex() == kat["pk"]
    assert key.decapsulate(bytes.fromhex(kat["ct"])).hex() == kat["ss"]


def test_ml_kem_round_trip() -> None:
    kem = SystemKem()
    key = kem.generate(bytes(range(64)))
    ciphertext, secret = kem.encapsulate(key.public)
    assert key.decapsulate(ciphertext) == secret
    assert key.decapsulate(bytes(len(ciphertext))) != secret


@pytest.mark.parametrize("ours_initiates", [True, False])
def test_the_oracle_understands_us(ours_initiates: bool) -> None:
    """protocol.md 2.4: XXpsk3 against an independent implementation, random keys."""
    rng = Random(7)
    name = "Noise_XXpsk3_25519_AESGCM_SHA256"
    psk = rng.randbytes(32)
    ours = HandshakeState(
        ProtocolName.parse(name),
        initiator=ours_initiates,
        prologue=b"p",
        entropy=rng.randbytes,
        s=rng.randbytes(32),
        psk=psk,
    )
    theirs = NoiseConnection.from_name(name.encode())
    theirs.set_psks(psk)
    theirs.set_prologue(b"p")
    theirs.set_keypair_from_private_bytes(Keypair.STATIC, rng.randbytes(32))
    (theirs.set_as_responder if ours_initiates else theirs.set_as_initiator)()
    theirs.start_handshake()
    while not ours.is_finished:
        if ours.is_our_turn:
            assert bytes(theirs.read_message(ours.write(b"from us"))) == b"from us"
        else:
            assert ours.read(bytes(theirs.write_message(b"from them"))) == b"from them"
    assert theirs.get_handshake_hash() == ours.symmetric.h
    send, receive = ours.split()
    for n in range(3):
        assert theirs.decrypt(send.encrypt(b"", bytes([n]))) == bytes([n])
        assert receive.decrypt(b"", theirs.encrypt(bytes([n]))) == bytes([n])
    send.rekey()
    theirs.noise_protocol.cipher_state_decrypt.rekey()
    assert theirs.decrypt(send.encrypt(b"", b"after rekey")) == b"after rekey"


def pair(seed: int, psks: tuple[bytes, bytes] = (b"k" * 32, b"k" * 32)) -> list[HandshakeState]:
    rng = Random(seed)
    return [
        HandshakeState(
            HYBRID,
            initiator=initiator,
            prologue=b"both",
            entropy=rng.randbytes,
            s=rng.randbytes(32),
            psk=psk,
            kem=SimKem(),
        )
        for initiator, psk in zip((True, False), psks, strict=True)
    ]


def test_the_kem_tokens_stand_where_the_extension_puts_them() -> None:
    """protocol.md 2.5: e1 follows e, ekem1 follows ee."""
    assert HYBRID.messages() == [
        ["e", "e1"],
        ["e", "ee", "ekem1", "s", "es"],
        ["s", "se", "psk"],
    ]


@pytest.mark.parametrize("message", [0, 1, 2])
def test_any_altered_octet_spoils_the_handshake(message: int) -> None:
    a, b = pair(1)
    for n in range(3):
        octets = bytearray(a.write(b"hi"))
        if n == message:
            octets[-1] ^= 1
            with pytest.raises(NoiseError):
                b.read(bytes(octets))
            return
        assert b.read(bytes(octets)) == b"hi"
        a, b = b, a


def test_only_the_third_message_needs_the_password() -> None:
    """protocol.md 2.6: a wrong password shows when the responder opens message 3."""
    a, b = pair(1, (b"k" * 32, b"x" * 32))
    b.read(a.write(b""))
    a.read(b.write(b"identity"))
    with pytest.raises(NoiseError):
        b.read(a.write(b"identity"))


def test_the_kem_secret_matters() -> None:
    """protocol.md 2.5: who breaks X25519 alone still lacks the KEM's secret."""
    a, b = pair(1)
    b._kem = LyingKem()
    b.read(a.write(b""))
    with pytest.raises(NoiseError):
        a.read(b.write(b""))


class LyingKem(SimKem):
    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        ciphertext, _ = super().encapsulate(public)
        return ciphertext, bytes(32)


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 100])
def test_truncated_messages_raise_one_error(cut: int) -> None:
    a, b = pair(1)
    with pytest.raises(NoiseError):
        b.read(a.write(b"")[:cut])


@pytest.mark.parametrize("public", [b"\xff" * 1184, bytes(1183), b""])
def test_what_is_no_ml_kem_public_key_is_refused(public: bytes) -> None:
    """protocol.md 2.5: coefficients beyond the modulus are no key (FIPS 203, section 7.2)."""
    with pytest.raises(ValueError, match="1184 bytes"):
        SystemKem().encapsulate(public)
    assert len(SystemKem().encapsulate(SystemKem().generate(bytes(64)).public)[0]) == 1088


def test_an_ephemeral_of_low_order_is_refused() -> None:
    """protocol.md 2.4: all-zero DH results are no secret."""
    rng = Random(1)
    responder = HandshakeState(
        ProtocolName.parse("Noise_XX_25519_AESGCM_SHA256"),
        initiator=False,
        prologue=b"",
        entropy=rng.randbytes,
        s=rng.randbytes(32),
    )
    assert responder.read(bytes(32)) == b""
    with pytest.raises(NoiseError, match="low order"):
        responder.write(b"")


@pytest.mark.parametrize(
    "name",
    [
        "Noise_NN_25519_AESGCM_SHA256",
        "Noise_XX_448_AESGCM_SHA256",
        "Noise_XX_25519_AESGCM_SHA512",
        "Noise_XXhfs_25519_AESGCM_SHA256",
        "Noise_IKhfs_25519+MLKEM768_AESGCM_SHA256",
    ],
)
def test_protocols_that_are_not_here(name: str) -> None:
    with pytest.raises(MisuseError):
        ProtocolName.parse(name)
