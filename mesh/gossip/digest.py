"""Comparing two peers' state by keys and stamps (docs/protocol.md 6.4). Pure functions.

summary_hash: are we equal?    key_ranges: what do I hold?    difference: who lacks what?
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise

from mesh.wire.gossip import HASH_SIZE, STAMP_SIZE, Keys

BATCH_KEYS = 4096
"""Keys of one KEYS or WANT message: some 100 KiB."""


def summary_hash(digest: Mapping[bytes, int]) -> bytes:
    """16 octets that are equal for equal (key, stamp) sets, in whatever order they are held."""
    total = 0
    for key, stamp in digest.items():
        total ^= _item_hash(key, stamp)
    return total.to_bytes(HASH_SIZE, "big")


def key_ranges(channel: str, digest: Mapping[bytes, int]) -> list[Keys]:
    """All keys held, in messages of bounded size whose ranges together span every key."""
    ordered = sorted(digest.items())
    parts = [ordered[at : at + BATCH_KEYS] for at in range(0, len(ordered), BATCH_KEYS)] or [[]]
    bounds = [b"", *(part[0][0] for part in parts[1:]), b""]
    return [
        Keys(channel, low, high, tuple(part))
        for part, (low, high) in zip(parts, pairwise(bounds), strict=True)
    ]


def difference(ours: Mapping[bytes, int], theirs: Keys) -> tuple[list[bytes], list[bytes]]:
    """(keys under which ours is newer, keys under which theirs is), within their range."""
    stamps = dict(theirs.stamps)
    newer = [
        key
        for key, stamp in ours.items()
        if key >= theirs.low
        and (not theirs.high or key < theirs.high)
        and stamps.get(key, -1) < stamp
    ]
    wanted = [key for key, stamp in stamps.items() if ours.get(key, -1) < stamp]
    return newer, wanted


@lru_cache(maxsize=1 << 14)
def _item_hash(key: bytes, stamp: int) -> int:
    """Remembered, so that a summary hashes only what changed since the last one."""
    octets = sha256(stamp.to_bytes(STAMP_SIZE, "big") + key).digest()[:HASH_SIZE]
    return int.from_bytes(octets, "big")
