"""A slice of the ring, and its octets (docs/protocol.md 12.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256

from ipam.address import Address, AddressRange
from mesh.crypto.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity
from mesh.errors import MalformedMessageError
from mesh.names import PeerName
from mesh.wire.codec import Reader, Writer

CONTEXT = b"weaver ipam slice v1"
ADDRESS_SIZE = 16
CLUSTER_SIZE = 16
EPOCH = 1 << 32
"""A version's upper half: takeovers. Whatever a fenced peer does, it stays below."""

TAKERS = 1 << 16
"""Of an epoch, the lower part is the taker's: two that take over the same differ in it."""

MAX_VERSION = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Slice:
    """``[start, end)`` belongs to ``owner``. ``version`` counts changes of ownership only.

    ``takeover`` marks a version made by another than the owner, who was declared gone: the first
    of a new epoch.
    """

    start: Address
    end: Address
    owner: PeerName
    version: int
    takeover: bool = False
    issuer_key: bytes = bytes(PUBLIC_KEY_SIZE)
    signature: bytes = bytes(SIGNATURE_SIZE)
    stamp: int = field(init=False, repr=False, compare=False)
    """Version, then a hash of the content: equal versions that differ are seen to differ."""

    def __post_init__(self) -> None:
        stamp = _stamp(self.start, self.end, self.owner, self.version, self.takeover)
        object.__setattr__(self, "stamp", stamp)

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
        return _content(self.start, self.end, self.owner, self.version, self.takeover)


def _content(start: Address, end: Address, owner: PeerName, version: int, takeover: bool) -> bytes:
    out = Writer().uint(start, ADDRESS_SIZE).uint(end, ADDRESS_SIZE)
    return out.name(owner).u64(version).u8(takeover).done()


@lru_cache(1 << 14)
def _stamp(start: Address, end: Address, owner: PeerName, version: int, takeover: bool) -> int:
    content = _content(start, end, owner, version, takeover)
    return version << 64 | int.from_bytes(sha256(content).digest()[:8], "big")


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
    if start >= end or takeover > 1 or not 0 < version <= MAX_VERSION:
        raise MalformedMessageError("a slice that makes no sense")
    piece = Slice(Address(start), Address(end), owner, version, bool(takeover), key, signature)
    return head, piece


def next_epoch(version: int, taker: PeerName) -> int:
    """The first version of an epoch that no other peer begins: rivals never share one (R15)."""
    count = (version // EPOCH) // TAKERS + 1
    return (count * TAKERS + int.from_bytes(taker[:2], "big")) * EPOCH
