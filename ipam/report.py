"""What a peer says of its own addresses to whoever asks (docs/protocol.md 12.4). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from ipam.address import Address
from ipam.ring import Ring
from ipam.slices import ADDRESS_SIZE, CLUSTER_SIZE
from mesh.errors import MalformedMessageError
from mesh.wire.codec import Reader, Writer

MAX_OWNED, MAX_ASTRAY, MAX_PLACES = 1024, 256, 64
"""Of one report: less than 64 KiB, as everything that peers say to each other."""

HASH_SIZE, SHORT_HASH = 32, 8
MAX_WORD = 64

Place = tuple[Address, Address]
Extent = tuple[Address, Address, int]


@dataclass(frozen=True, slots=True)
class Report:
    """``ring`` and ``excluded`` are hashes; ``owned_count`` says how many slices there were, where
    ``owned`` has no room for all; ``withheld`` is a reason, or nothing."""

    cluster: bytes
    ring: bytes
    excluded: bytes
    slices: int
    used: int
    free: int
    resting: int
    leaks: int
    withheld: str
    owned_count: int
    owned: tuple[Extent, ...] = ()
    disputed: tuple[Place, ...] = ()
    gaps: tuple[Place, ...] = ()
    astray: tuple[Address, ...] = ()

    @property
    def is_whole(self) -> bool:
        return len(self.owned) == self.owned_count

    def encode(self) -> bytes:
        out = Writer().raw(self.cluster).raw(self.ring).raw(self.excluded)
        out.u32(self.slices).u64(self.used).uint(self.free, ADDRESS_SIZE)
        out.u32(self.resting).u32(self.leaks).text(self.withheld).u32(self.owned_count)
        out.u16(len(self.owned))
        for start, end, version in self.owned:
            out.uint(start, ADDRESS_SIZE).uint(end, ADDRESS_SIZE).u64(version)
        for places in (self.disputed, self.gaps):
            out.u16(len(places))
            for start, end in places:
                out.uint(start, ADDRESS_SIZE).uint(end, ADDRESS_SIZE)
        out.u16(len(self.astray))
        for address in self.astray:
            out.uint(address, ADDRESS_SIZE)
        return out.done()


def read_report(reader: Reader) -> Report:
    """Raises MalformedMessageError."""
    cluster, ring = reader.raw(CLUSTER_SIZE), reader.raw(HASH_SIZE)
    excluded = reader.raw(SHORT_HASH)
    slices, used, free = reader.u32(), reader.u64(), reader.uint(ADDRESS_SIZE)
    resting, leaks = reader.u32(), reader.u32()
    withheld = reader.text(limit=MAX_WORD)
    if not withheld.isprintable():
        raise MalformedMessageError("a reason that cannot be printed")
    owned_count = reader.u32()
    owned = tuple((*_place(reader), reader.u64()) for _ in range(_counted(reader, MAX_OWNED)))
    if len(owned) > owned_count:
        raise MalformedMessageError("more slices than there are")
    disputed = tuple(_place(reader) for _ in range(_counted(reader, MAX_PLACES)))
    gaps = tuple(_place(reader) for _ in range(_counted(reader, MAX_PLACES)))
    astray = tuple(_address(reader) for _ in range(_counted(reader, MAX_ASTRAY)))
    return Report(
        cluster, ring, excluded, slices, used, free, resting, leaks, withheld, owned_count,
        owned, disputed, gaps, astray,
    )  # fmt: skip


def ring_hash(ring: Ring) -> bytes:
    """Equal where everybody has heard the same."""
    stamps = sorted((piece.start, piece.stamp) for piece in ring.slices.values())
    return sha256(repr(stamps).encode()).digest()


def places_hash(places: Sequence[Place]) -> bytes:
    return sha256(repr(list(places)).encode()).digest()[:SHORT_HASH]


def first(places: Iterable[Place]) -> tuple[Place, ...]:
    """As many as a report has room for."""
    return tuple(sorted(places)[:MAX_PLACES])


def _address(reader: Reader) -> Address:
    return Address(reader.uint(ADDRESS_SIZE))


def _place(reader: Reader) -> Place:
    return _address(reader), _address(reader)


def _counted(reader: Reader, limit: int) -> int:
    count = reader.u16()
    if count > limit:
        raise MalformedMessageError(f"a list of {count}")
    return count
