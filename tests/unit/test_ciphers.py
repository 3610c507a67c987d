"""protocol.md 5.6: which cipher a pair uses, and that the worker uses it (10.4)."""

from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given

from mesh.connection.handshake import RefusedError
from mesh.errors import MalformedMessageError
from mesh.link.ciphers import agree, choose, confirm, said
from mesh.link.records import unicast_record
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher, Offer, named, offer_text, parse_offer
from mesh.wire.sleeve import HEADER_SIZE
from tests.unit.test_sleeve_forwarding import FAR, POD, US, A, Host, frame, install, key

AES, CHACHA = Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305

offers = st.dictionaries(st.sampled_from(Cipher), st.integers(0, 10**10 - 1))
costs = st.integers(0, 5)
"""Few, so that ties happen."""


# ---- offers as text


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        ({}, ""),
        ({AES: 0}, "aes-256-gcm=0"),
        ({CHACHA: 18200, AES: 6900}, "aes-256-gcm=6900 chacha20-poly1305=18200"),
    ],
)
def test_an_offer_character_for_character(offer: Offer, text: str) -> None:
    assert offer_text(offer) == text
    assert parse_offer(text) == offer


@given(offers)
def test_an_offer_is_read_as_it_was_meant(offer: Offer) -> None:
    assert parse_offer(offer_text(offer)) == offer
    assert len(offer_text(offer)) <= 255, "what a feature of the hello may have"


def test_ciphers_of_a_later_version_are_passed_over() -> None:
    text = "aegis-256=1 chacha20-poly1305=5 zz=9999999999"
    assert parse_offer(text) == {CHACHA: 5}
    assert named("aegis-256") is None


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "aes-256-gcm",
        "aes-256-gcm=",
        "=1",
        "aes-256-gcm=-1",
        "aes-256-gcm=12345678901",
        "aes-256-gcm=1 ",
        "aes-256-gcm=1  chacha20-poly1305=2",
        "aes-256-gcm=1 aes-256-gcm=1",
        "new=1 new=2",
        "AES-256-GCM=1",
        "aes-256-gcm=\N{ARABIC-INDIC DIGIT ONE}",
        "aes-256-gcm=1\n",
        "x" * 33 + "=1",
    ],
)
def test_what_is_no_offer(text: str) -> None:
    with pytest.raises(MalformedMessageError):
        parse_offer(text)
    with pytest.raises(RefusedError, match="malformed-message"):
        agree({AES: 1}, {"ciphers": text})


@given(st.text(max_size=60))
def test_any_text_is_an_offer_or_malformed(text: str) -> None:
    try:
        offer = parse_offer(text)
    except MalformedMessageError:
        return
    assert set(offer) <= set(Cipher)


# ---- the choice


@given(ours=offers, theirs=offers)
def test_both_ends_choose_the_same(ours: Offer, theirs: Offer) -> None:
    """And what they choose is something both can do, whenever there is such a thing."""
    choice = choose(ours, theirs)
    assert choice is choose(theirs, ours)
    assert (choice is None) == (not ours.keys() & theirs.keys())
    if choice is not None:
        assert choice in ours
        assert choice in theirs
        assert agree(ours, said(theirs)) is choice
        assert confirm(theirs, said(ours, choice)) is choice


@given(st.tuples(costs, costs, costs, costs))
def test_the_slower_end_decides(four: tuple[int, int, int, int]) -> None:
    """Against what one would write who had only these two ciphers."""
    our_aes, our_chacha, their_aes, their_chacha = four
    aes, chacha = max(our_aes, their_aes), max(our_chacha, their_chacha)
    expected = CHACHA if chacha < aes else AES
    ours, theirs = {AES: our_aes, CHACHA: our_chacha}, {CHACHA: their_chacha, AES: their_aes}
    assert choose(ours, theirs) is expected


def test_a_fast_end_gives_way_to_one_without_instructions_for_aes() -> None:
    fast, slow = {AES: 7_000, CHACHA: 18_000}, {AES: 900_000, CHACHA: 120_000}
    assert choose(fast, fast) is AES
    assert choose(fast, slow) is choose(slow, fast) is CHACHA
    assert choose(slow, slow) is CHACHA


@pytest.mark.parametrize("features", [{}, {"ciphers": ""}, {"ciphers": "aegis-256=1"}])
def test_nothing_in_common(features: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="no-common-cipher"):
        agree({AES: 1, CHACHA: 1}, features)


@pytest.mark.parametrize(
    ("ours", "told", "reason"),
    [
        ({AES: 1}, "chacha20-poly1305", "unknown-cipher"),
        ({AES: 1, CHACHA: 2}, "aegis-256", "unknown-cipher"),
        ({AES: 1, CHACHA: 2}, "", "unknown-cipher"),
        ({AES: 1, CHACHA: 2}, "chacha20-poly1305", "cipher-mismatch"),
        ({AES: 2, CHACHA: 1}, "aes-256-gcm", "cipher-mismatch"),
    ],
)
def test_a_choice_that_is_not_ours(ours: Offer, told: str, reason: str) -> None:
    features = {"ciphers": "aes-256-gcm=1 chacha20-poly1305=1", "cipher": told}
    with pytest.raises(RefusedError, match=reason):
        confirm(ours, features)


# ---- the worker


@pytest.mark.parametrize(("cipher", "aead"), [(AES, AESGCM), (CHACHA, ChaCha20Poly1305)])
def test_records_are_sealed_by_the_cipher_of_their_epoch(
    cipher: Cipher, aead: type[AESGCM | ChaCha20Poly1305]
) -> None:
    """protocol.md 10.4: held against the library's own object, and opened at the other end."""
    ours, theirs = Host(US, A), Host(A, US)
    for host, us, them in ((ours, US, A), (theirs, A, US)):
        host.peers.apply(install(us, them, 2, cipher))
        host.peers.apply(w.ActivateEpoch(them, 2))
    body = bytes(unicast_record(frame(POD, FAR)))
    (datagram,) = ours.datagrams(A, body, size=1000)
    prefix, seq = datagram[:1] + b"\0" + datagram[2:12], datagram[12:20]
    sealed = aead(key(US, A, 2)).encrypt(bytes(4) + seq, body, prefix)
    assert datagram[HEADER_SIZE:] == sealed
    theirs.take(datagram)
    assert theirs.written == [frame(POD, FAR)]


@pytest.mark.parametrize(("one", "other"), [(o, t) for o, t in product(Cipher, Cipher) if o != t])
def test_the_same_key_under_another_cipher_opens_nothing(one: Cipher, other: Cipher) -> None:
    ours, theirs = Host(US, A), Host(A, US)
    ours.peers.apply(install(US, A, 2, one))
    theirs.peers.apply(install(A, US, 2, other))
    ours.peers.apply(w.ActivateEpoch(A, 2))
    theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(POD, FAR))), size=1000))
    assert theirs.written == []
    assert theirs.drops == {"unauthentic": 1}


def test_one_peer_may_differ_from_another() -> None:
    host = Host(US, A)
    host.peers.apply(install(US, A, 2, CHACHA))
    first, second = host.peers.peers[A].tx.values()
    assert isinstance(first.aead, AESGCM)
    assert isinstance(second.aead, ChaCha20Poly1305)


def test_a_cipher_the_worker_does_not_know_is_no_message() -> None:
    """protocol.md 11.2."""
    data = w.encode(install(US, A, 2, AES))
    with pytest.raises(MalformedMessageError):
        w.decode(data.replace(b"aes-256-gcm", b"aes-512-gcm"))
