"""Which cipher a pair of peers uses: agreed on inside their handshake (docs/protocol.md 5.6).

Each end says in its hello, which is sealed and part of the transcript, what it can do at what
cost; the initiator, who speaks last, also says what both must have come to. A relay can neither
read nor change any of it. Both ends choose by the same rule from the same two offers.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.connection.handshake import RefusedError
from mesh.connection.reasons import Refusal
from mesh.errors import MalformedMessageError
from mesh.wire.cipher import Cipher, Offer, named, offer_text, parse_offer

OFFER, CHOICE = "ciphers", "cipher"
"""Features of the hello: what its sender can do; what the initiator says is agreed."""


def said(ours: Offer, choice: Cipher | None = None) -> dict[str, str]:
    """What our hello says of ciphers, with the choice when it is the initiator's."""
    features = {OFFER: offer_text(ours)}
    return features if choice is None else {**features, CHOICE: choice.value}


def choose(one: Offer, other: Offer) -> Cipher | None:
    """Of what both can do, the cipher whose slower end is the fastest: the same from both ends.

    Of equal ones the first in the order of ``Cipher``; None when they have nothing in common.
    """
    common = [cipher for cipher in Cipher if cipher in one and cipher in other]
    return min(common, key=lambda cipher: max(one[cipher], other[cipher]), default=None)


def agree(ours: Offer, features: Mapping[str, str]) -> Cipher:
    """What we and an end that said this come to. Raises RefusedError."""
    try:
        theirs = parse_offer(features.get(OFFER, ""))
    except MalformedMessageError as err:
        raise RefusedError(Refusal.MALFORMED) from err
    choice = choose(ours, theirs)
    if choice is None:
        raise RefusedError(Refusal.NO_COMMON_CIPHER)
    return choice


def confirm(ours: Offer, features: Mapping[str, str]) -> Cipher:
    """The same for the responder, who is told the choice and must have made it as well."""
    told = named(features.get(CHOICE, ""))
    if told not in ours:
        raise RefusedError(Refusal.UNKNOWN_CIPHER)
    if told is not agree(ours, features):
        raise RefusedError(Refusal.CIPHER_MISMATCH)
    return told
