"""What the hosts of a mesh measured, and which cipher each pair must use for it."""

from __future__ import annotations

from itertools import permutations

from mesh.wire.cipher import Cipher, Offer
from tests.sim.host import SimHost

AES, CHACHA = Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305

WITH_AES: Offer = {AES: 7_000, CHACHA: 18_000}
WITHOUT_AES: Offer = {AES: 900_000, CHACHA: 120_000}
EVEN: Offer = {AES: 30_000, CHACHA: 30_000}

PROCESSORS = (WITH_AES, WITHOUT_AES, EVEN)
"""Of the hosts of a mesh, in turn."""


def cipher_complaint(hosts: list[SimHost]) -> str | None:
    """Both ends of every pair use the cipher that is fastest for the slower of the two."""
    for host, other in permutations(hosts, 2):
        ours, theirs = (a.router.links.pairs.get(b.name) for a, b in ((host, other), (other, host)))
        cost = {
            cipher: max(host.ciphers[cipher], other.ciphers[cipher])
            for cipher in host.ciphers.keys() & other.ciphers.keys()
        }
        if ours is None or theirs is None:
            return f"{host.address} and {other.address} make no keys"
        if not cost:
            if (ours.reason, ours.cipher) != ("no-common-cipher", None):
                return f"{host.address} says {ours.reason} of {other.address}: nothing in common"
        elif ours.cipher is None:
            return f"{host.address} has no cipher with {other.address}: {ours.reason}"
        elif ours.cipher is not theirs.cipher or cost[ours.cipher] > min(cost.values()):
            return f"{host.address} uses {ours.cipher}, {other.address} {theirs.cipher}"
    return None
