"""The ring: which peer owns which slice of the range. A gossip channel (docs/ipam.md 2).

A slice says its own start *and* end, so a peer that has heard only a part of a donation never
believes to own more than it was given. Slices are split and handed on, never joined.

Invariants:
  I1  only a slice's owner makes its next version, except in a takeover, which says it is one
  I2  what we own, no message of another peer changes, except a takeover with a higher version
  I3  merge is commutative, associative and idempotent for histories that obey I1
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

from ipam.address import Address, AddressRange
from mesh.clock import Instant
from mesh.crypto.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, verify
from mesh.errors import MalformedMessageError, MisuseError
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import PeerName
from mesh.wire.codec import Reader, Writer

CHANNEL = "ipam"
CONTEXT = b"weaver ipam slice v1"
ADDRESS_SIZE = 16
CLUSTER_SIZE = 16
MAX_SLICES = 100_000
"""Slices held: a /12 in blocks of ten addresses. More come only from a peer that lies."""


@dataclass(frozen=True, slots=True)
class Slice:
    """``[start, end)`` belongs to ``owner``. ``version`` counts changes of ownership only.

    ``takeover`` marks a version made by another than the owner, who was declared gone.
    """

    start: Address
    end: Address
    owner: PeerName
    version: int
    takeover: bool = False
    issuer_key: bytes = bytes(PUBLIC_KEY_SIZE)
    signature: bytes = bytes(SIGNATURE_SIZE)

    @property
    def key(self) -> bytes:
        return self.start.to_bytes(ADDRESS_SIZE, "big")

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def issuer(self) -> PeerName:
        return PeerName.of(self.issuer_key)

    def content(self) -> bytes:
        """What ownership is about: who issued it, and when again, does not matter to it."""
        out = Writer().uint(self.start, ADDRESS_SIZE).uint(self.end, ADDRESS_SIZE)
        return out.name(self.owner).u64(self.version).u8(self.takeover).done()

    @property
    def stamp(self) -> int:
        """Version, then a hash of the content: equal versions that differ are seen to differ."""
        return self.version << 64 | int.from_bytes(sha256(self.content()).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class RingId:
    """What two peers must share before their slices mean anything to each other."""

    cluster: bytes
    range: AddressRange

    def head(self) -> bytes:
        return self.cluster + self.range.head()


HEAD_SIZE = CLUSTER_SIZE + 2 + ADDRESS_SIZE


def encode_slice(ring: RingId, piece: Slice) -> bytes:
    return ring.head() + piece.content() + piece.issuer_key + piece.signature


def sign_slice(ring: RingId, piece: Slice, identity: Identity) -> Slice:
    issued = replace(piece, issuer_key=identity.public_key)
    signature = identity.sign(CONTEXT, ring.head() + issued.content())
    return replace(issued, signature=signature)


def decode_slice(data: bytes) -> tuple[bytes, Slice]:
    """(head, slice). Raises MalformedMessageError; says nothing of the signature."""
    reader = Reader(data)
    head = reader.raw(HEAD_SIZE)
    start, end = reader.uint(ADDRESS_SIZE), reader.uint(ADDRESS_SIZE)
    owner, version, takeover = reader.name(), reader.u64(), reader.u8()
    key, signature = reader.raw(PUBLIC_KEY_SIZE), reader.raw(SIGNATURE_SIZE)
    reader.end()
    if start >= end or takeover > 1 or version == 0:
        raise MalformedMessageError("a slice that makes no sense")
    piece = Slice(Address(start), Address(end), owner, version, bool(takeover), key, signature)
    return head, piece


@dataclass(frozen=True, slots=True)
class Conflict:
    """What somebody said about a slice that contradicts what we hold: kept as evidence."""

    held: Slice
    said: Slice
    reason: str
    source: PeerName


class Ring:
    name = CHANNEL

    def __init__(self, identity: Identity, range: AddressRange) -> None:
        self.identity, self.range = identity, range
        self.us = identity.name
        self.id: RingId | None = None
        self.slices: dict[Address, Slice] = {}
        self.conflicts: dict[Address, Conflict] = {}
        self.changed: list[Slice] = []
        """Slices that merges brought since ``take_changed``: to persist and to act on."""

    @classmethod
    def restored(
        cls,
        identity: Identity,
        range: AddressRange,
        cluster: bytes | None,
        stored: Iterable[bytes],
    ) -> Self:
        """The ring as the store has it. Raises MalformedMessageError when it is not one."""
        ring = cls(identity, range)
        if cluster is not None and len(cluster) != CLUSTER_SIZE:
            raise MalformedMessageError("a cluster's id of another size")
        if cluster is not None:
            ring.id = RingId(cluster, range)
        for data in stored:
            head, piece = decode_slice(data)
            if ring.id is None or head != ring.id.head():
                raise MalformedMessageError("a slice of another ring")
            ring.slices[piece.start] = piece
        return ring

    # ---- questions

    @property
    def is_seeded(self) -> bool:
        return bool(self.slices)

    def holds(self, octets: bytes) -> bool:
        """Whether this slice of this ring is known here, or what became of it."""
        head, said = decode_slice(octets)
        held = self.slices.get(said.start)
        if self.id is None or head != self.id.head() or held is None:
            return False
        return held.version > said.version or held.content() == said.content()

    def owned(self, owner: PeerName) -> list[Slice]:
        return [s for _, s in sorted(self.slices.items()) if s.owner == owner]

    def owner_of(self, address: int) -> PeerName | None:
        """Whom an address belongs to; None where no slice covers it. O(n)."""
        for piece in self.slices.values():
            if piece.start <= address < piece.end:
                return piece.owner
        return None

    def shares(self) -> dict[PeerName, int]:
        """Addresses owned by each peer."""
        shares: dict[PeerName, int] = {}
        for piece in self.slices.values():
            shares[piece.owner] = shares.get(piece.owner, 0) + piece.size
        return shares

    def gaps(self) -> list[tuple[Address, Address]]:
        """Parts of the range that no slice covers, or more than one."""
        bad, at = [], self.range.start
        for start, piece in sorted(self.slices.items()):
            if start != at:
                bad.append((min(at, start), max(at, start)))
            at = Address(max(at, piece.end))
        if self.slices and at != self.range.end:
            bad.append((at, self.range.end))
        return bad

    # ---- our own changes

    def seed(self, cluster: bytes, owners: Sequence[PeerName]) -> list[Slice]:
        """Divide the whole range among ``owners``; callers hold consensus first."""
        if self.slices:
            raise MisuseError("the ring is seeded already")
        self.id = RingId(cluster, self.range)
        starts = [*self.range.split(len(owners)), self.range.end]
        pieces = [
            Slice(starts[n], starts[n + 1], owner, 1)
            for n, owner in enumerate(owners)
            if starts[n] < starts[n + 1]
        ]
        return [self._set(piece) for piece in pieces]

    def give(self, start: Address, end: Address, to: PeerName) -> list[Slice]:
        """Hand ``[start, end)``, inside one slice of ours, to another peer; what changed."""
        held = next((s for s in self.owned(self.us) if s.start <= start < end <= s.end), None)
        if held is None:
            raise MisuseError("giving away what is not ours")
        changed = []
        if held.start < start:
            changed.append(self._set(replace(held, end=start, version=held.version + 1)))
            changed.append(self._set(Slice(start, end, to, 1, False)))
        else:
            changed.append(self._set(replace(held, end=end, owner=to, version=held.version + 1)))
        if end < held.end:
            changed.append(self._set(Slice(end, held.end, self.us, 1, False)))
        return changed

    def take_over(self, dead: PeerName) -> list[Slice]:
        """Make every slice of a peer that is gone for good our own."""
        return [
            self._set(replace(s, owner=self.us, version=s.version + 1, takeover=True))
            for s in self.owned(dead)
        ]

    def reassert(self, start: Address, version: int) -> Slice:
        """Say again what we own, above a version that somebody lied about.

        Two above: whoever believed the lie takes the very next version from the liar only.
        """
        return self._set(replace(self.slices[start], version=version + 2, takeover=False))

    def _set(self, piece: Slice) -> Slice:
        if self.id is None:
            raise MisuseError("a ring without a cluster")
        signed = sign_slice(self.id, replace(piece, takeover=piece.takeover), self.identity)
        self.slices[piece.start] = signed
        return signed

    def encoded(self, piece: Slice) -> bytes:
        assert self.id is not None
        return encode_slice(self.id, piece)

    def take_changed(self) -> list[Slice]:
        changed, self.changed = self.changed, []
        return changed

    # ---- the channel

    def digest(self) -> Mapping[bytes, int]:
        return {piece.key: piece.stamp for piece in self.slices.values()}

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        found = []
        for key in keys:
            piece = self.slices.get(Address(int.from_bytes(key, "big")))
            if piece is not None and piece.key == key:
                found.append(Item(key, piece.stamp, self.encoded(piece)))
        return found

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news: list[bytes] = []
        rejected: list[Rejected] = []
        for item in items:
            try:
                reason = self._merge_one(item, source)
            except MalformedMessageError as err:
                reason = err.reason
            if reason == "":
                news.append(item.key)
            elif reason is not None:
                rejected.append(Rejected(item.key, reason))
        return Merged(tuple(news), tuple(rejected))

    def _merge_one(self, item: Item, source: PeerName) -> str | None:
        """ "" for news, None for nothing new, else why the slice is refused."""
        head, said = decode_slice(item.payload)
        if said.key != item.key or said.stamp != item.stamp:
            return "mislabelled"
        if (reason := self._foreign(head)) is not None:
            return reason
        held = self.slices.get(said.start)
        if held is not None and held.version > said.version:
            return None
        if held is not None and held.content() == said.content():
            return None
        if not verify(said.issuer_key, CONTEXT, head + said.content(), said.signature):
            return "bad-signature"
        if held is None and len(self.slices) >= MAX_SLICES:
            return "too-many-slices"
        if said.start < self.range.start or said.end > self.range.end:
            return "slice-outside-range"
        if held is not None and (reason := self._contradiction(held, said)) is not None:
            self.conflicts[said.start] = Conflict(held, said, reason, source)
            return reason
        if self.id is None:
            self.id = RingId(head[:CLUSTER_SIZE], self.range)
        self.slices[said.start] = said
        self.conflicts.pop(said.start, None)
        self.changed.append(said)
        return ""

    def _foreign(self, head: bytes) -> str | None:
        ours = RingId(bytes(CLUSTER_SIZE), self.range).head()
        if head[CLUSTER_SIZE:] != ours[CLUSTER_SIZE:]:
            return "range-mismatch"
        if self.id is not None and head[:CLUSTER_SIZE] != self.id.cluster:
            return "cluster-mismatch"
        return None

    def _contradiction(self, held: Slice, said: Slice) -> str | None:
        """Why a newer or equal version of a slice cannot be believed, or None."""
        if said.version == held.version + 1 and said.issuer != held.owner and not said.takeover:
            return "slice-forged"  # the next version is its owner's to make
        if held.owner == self.us and said.issuer != self.us and not said.takeover:
            return "slice-forged"
        if held.version == said.version:
            return "version-reused"
        return None
