"""protocol.md 5.6: what sealing costs here, measured at the daemon's start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from mesh.drivers import ciphers
from mesh.drivers.ciphers import BUDGET_NS, LEAST_ROUNDS, MOST_ROUNDS, SAMPLE, measured_offer
from mesh.errors import OperatorError
from mesh.wire.cipher import Cipher

AES, CHACHA = Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305


class Bench:
    """Ciphers and a clock of our own: sealing takes what it is said to take, in turn."""

    def __init__(self, patch: pytest.MonkeyPatch, times: dict[Cipher, list[int]]) -> None:
        self.now = 0
        self.sealed = dict.fromkeys(times, 0)
        patch.setattr(ciphers, "AEADS", {cipher: self.maker(cipher) for cipher in times})
        self._times = times

    def clock(self) -> int:
        return self.now

    def maker(self, cipher: Cipher) -> Callable[[bytes], object]:
        bench = self

        class Aead:
            def __init__(self, key: bytes) -> None:
                assert len(key) == 32

            def encrypt_into(self, nonce: bytes, plain: bytes, _aad: None, out: bytearray) -> None:
                assert (len(nonce), len(plain), len(out)) == (12, SAMPLE, SAMPLE + 16)
                times, done = bench._times[cipher], bench.sealed[cipher]
                bench.now += times[min(done, len(times) - 1)]
                bench.sealed[cipher] += 1

        return Aead


def test_the_best_of_several_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first one that finds cold caches, and one that was interrupted, say nothing."""
    bench = Bench(
        monkeypatch, {AES: [90_000, 7_000, 8_000], CHACHA: [50_000, 30_000, 18_000, 900_000]}
    )
    assert measured_offer(clock=bench.clock) == {AES: 7_000, CHACHA: 18_000}
    assert bench.sealed[AES] == bench.sealed[CHACHA]
    assert bench.now < BUDGET_NS + 1_000_000


def test_a_slow_processor_is_not_asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, {AES: [4_000_000], CHACHA: [500_000]})
    assert measured_offer(clock=bench.clock) == {AES: 4_000_000, CHACHA: 500_000}
    assert bench.sealed == {AES: LEAST_ROUNDS, CHACHA: LEAST_ROUNDS}


def test_a_fast_one_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, {AES: [0], CHACHA: [0]})
    assert measured_offer(clock=bench.clock) == {AES: 0, CHACHA: 0}
    assert bench.sealed == {AES: MOST_ROUNDS, CHACHA: MOST_ROUNDS}


def test_one_that_was_asked_for_is_all_that_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, {AES: [7_000], CHACHA: [18_000]})
    assert measured_offer(CHACHA, bench.clock) == {CHACHA: 18_000}
    assert bench.sealed[AES] == 0


def test_what_the_library_cannot_do_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_key: bytes) -> object:
        raise UnsupportedAlgorithm("not in this OpenSSL")

    bench = Bench(monkeypatch, {AES: [7_000], CHACHA: [18_000]})
    patched = {AES: bench.maker(AES), CHACHA: missing}
    monkeypatch.setattr(ciphers, "AEADS", patched)
    assert measured_offer(clock=bench.clock) == {AES: 7_000}
    with pytest.raises(OperatorError, match="chacha20-poly1305") as refused:
        measured_offer(CHACHA, bench.clock)
    assert refused.value.reason == "cipher-unavailable"


def test_this_host_does_both() -> None:
    """The real ones: what comes out is what an offer may hold."""
    offer = measured_offer()
    assert set(offer) == {AES, CHACHA}
    assert all(0 < cost < 10**10 for cost in offer.values())
