"""What sealing costs on this processor: measured once, at the daemon's start.

AES-256-GCM is the faster one where the processor has instructions for it, ChaCha20-Poly1305 where
it has not; which it is, and by how much, is asked of the processor by doing it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm

from mesh.crypto.aead import AEADS, Aead
from mesh.errors import OperatorError
from mesh.wire.cipher import Cipher, Offer
from mesh.wire.sleeve import TAG_SIZE

SAMPLE = 64 * 1024
"""Octets of a record on a clean path."""

LEAST_ROUNDS, MOST_ROUNDS = 3, 64
BUDGET_NS = 8_000_000
"""After this no round is begun: the best of many where sealing is fast, of three where it is slow
and one of them would take what many take elsewhere."""


def measured_offer(
    only: Cipher | None = None, clock: Callable[[], int] = time.perf_counter_ns
) -> Offer:
    """What we can do at what cost, or ``only`` this. Raises OperatorError."""
    aeads: dict[Cipher, Aead] = {}
    for cipher in Cipher if only is None else (only,):
        try:
            aeads[cipher] = AEADS[cipher](bytes(32))
        except UnsupportedAlgorithm:
            continue
    if not aeads:
        missing = "any cipher" if only is None else str(only)
        raise OperatorError(f"this host's OpenSSL cannot do {missing}", "cipher-unavailable")
    return _costs(aeads, clock)


def _costs(aeads: dict[Cipher, Aead], clock: Callable[[], int]) -> dict[Cipher, int]:
    """The best time of each; they take turns, so that a disturbance is nobody's alone."""
    nonce, plain, sealed = bytes(12), bytes(SAMPLE), bytearray(SAMPLE + TAG_SIZE)
    best: dict[Cipher, int] = {}
    began = clock()
    for done in range(MOST_ROUNDS):
        for cipher, aead in aeads.items():
            before = clock()
            aead.encrypt_into(nonce, plain, None, sealed)
            took = clock() - before
            best[cipher] = min(best.get(cipher, took), took)
        if done + 1 >= LEAST_ROUNDS and clock() - began >= BUDGET_NS:
            break
    return best
