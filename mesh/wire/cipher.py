"""Ciphers of the data path, and what an end says of those it can do (docs/protocol.md 5.6).

An offer is text, a feature of the hello inside the pair handshake: names, each with what sealing
64 KiB with it costs that end, in nanoseconds::

    aes-256-gcm=6900 chacha20-poly1305=18200
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from mesh.errors import MalformedMessageError

MAX_NAME = 32


class Cipher(StrEnum):
    """32 octets of key, 12 of nonce, 16 of tag. Of two that cost the same, the upper one."""

    AES_256_GCM = "aes-256-gcm"
    CHACHA20_POLY1305 = "chacha20-poly1305"


Offer = Mapping[Cipher, int]
"""What an end can do: nanoseconds to seal 64 KiB, by cipher."""

_NAMES = {str(cipher): cipher for cipher in Cipher}
_ENTRY = re.compile(r"([a-z0-9-]{1,32})=([0-9]{1,10})")


def named(name: str) -> Cipher | None:
    """The cipher of this name, if it is one of ours."""
    return _NAMES.get(name)


def offer_text(offer: Offer) -> str:
    return " ".join(f"{cipher}={cost}" for cipher, cost in sorted(offer.items()))


def parse_offer(text: str) -> dict[Cipher, int]:
    """What of an offer we can do too: names we do not know are a later version's.

    Raises MalformedMessageError.
    """
    seen: dict[str, int] = {}
    for entry in text.split(" ") if text else ():
        match = _ENTRY.fullmatch(entry)
        if match is None or match[1] in seen:
            raise MalformedMessageError(f"no offer of a cipher: {entry!r}")
        seen[match[1]] = int(match[2])
    return {_NAMES[name]: cost for name, cost in seen.items() if name in _NAMES}
