"""What a simulated host stands on: an identity that signs fast, a disk that fails as disks do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import cast

import ipam.core
import ipam.election
import ipam.handover
import ipam.ring
import ipam.slices
from ipam.effects import AllocationKey, Change
from ipam.election import Vote
from mesh.crypto.identity import Identity
from mesh.errors import OperatorError
from mesh.names import PeerName
from tests.store_twin import MemoryStore


class FastIdentity:
    """Signs with a hash that everybody can compute: a liar here never forges a signature, and
    that a forged one is refused is tested with real ones."""

    def __init__(self, seed: bytes) -> None:
        self.public_key = sha256(seed).digest()
        self.name = PeerName.of(self.public_key)

    def sign(self, context: bytes, message: bytes) -> bytes:
        return _seal(self.public_key, context, message)


def _seal(key: bytes, context: bytes, message: bytes) -> bytes:
    return blake2b(message, key=key, person=context[-16:]).digest()


def _verify(key: bytes, context: bytes, message: bytes, signature: bytes) -> bool:
    return _seal(key, context, message) == signature


def identity(seed: bytes) -> Identity:
    return cast("Identity", FastIdentity(seed))


def install(put: Callable[[object, str, object], None] = setattr) -> None:
    """For the whole process, which does nothing but simulate; in tests, by a patch that ends."""
    for module in (ipam.ring, ipam.election):
        put(module, "verify", _verify)
    put(Vote, "decode", functools.lru_cache(1 << 12)(Vote.decode))
    decode = functools.lru_cache(1 << 14)(ipam.slices.decode_slice)
    for module in (ipam.ring, ipam.core, ipam.handover):
        put(module, "decode_slice", decode)


class KilledError(Exception):
    """kill -9 of the daemon, here."""


@dataclass
class Disk(MemoryStore):
    """One transaction at a time, whole or not at all."""

    broken: bool = False
    """Every write fails."""
    kill_at: int | None = None
    """Statements of the next transaction after which the process dies; as many as there are: just
    before COMMIT; more: just behind it."""

    def write(self, changes: Sequence[Change]) -> None:
        if self.kill_at is not None and self.kill_at <= len(changes):
            raise KilledError
        if self.broken:
            raise OperatorError("no room", "store-full")
        super().write(changes)
        if self.kill_at is not None:
            raise KilledError

    def copy(self) -> Disk:
        return Disk(
            self.cluster, self.vote, dict(self.slices), dict(self.allocations), dict(self.freed)
        )


def key_of(number: int) -> AllocationKey:
    return AllocationKey(f"c{number}", "eth0")
