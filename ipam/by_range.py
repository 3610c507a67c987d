"""Several ranges on one mesh: each has a ring and an election of its own, and all share a channel.

Whatever is said names the range that it is about, so no order and no choice of ranges on one host
makes two rings of one range; what is about a range that is not here is refused, and seen.
(docs/ipam.md R24, docs/protocol.md 12) Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ipam.address import AddressRange
from mesh.clock import Instant
from mesh.errors import MalformedMessageError, OperatorError
from mesh.gossip.channel import Channel, Item, Merged, Rejected
from mesh.names import PeerName

HEAD_SIZE = 18
MAX_RANGES = 8
"""Of one mesh: each costs every host a ring, and a pod's bridge an address."""

FOREIGN = "range-mismatch"


class ByRange:
    """A gossip channel whose items are those of one channel a range, their keys behind its head."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts: dict[bytes, Channel] = {}

    def add(self, range: AddressRange, channel: Channel) -> None:
        self._parts[range.head()] = channel

    def digest(self) -> Mapping[bytes, int]:
        return {
            head + key: stamp
            for head, part in self._parts.items()
            for key, stamp in part.digest().items()
        }

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        found = []
        for head, own in _by_head(keys).items():
            part = self._parts.get(head)
            if part is not None:
                found += [replace(item, key=head + item.key) for item in part.items(own)]
        return found

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news: list[bytes] = []
        rejected: list[Rejected] = []
        grouped: dict[bytes, list[Item]] = {}
        for item in items:
            grouped.setdefault(item.key[:HEAD_SIZE], []).append(item)
        for head, group in grouped.items():
            part = self._parts.get(head)
            if part is None:
                rejected += [Rejected(item.key, FOREIGN) for item in group]
                continue
            bare = [replace(item, key=item.key[HEAD_SIZE:]) for item in group]
            merged = part.merge(bare, source, now)
            news += [head + key for key in merged.news]
            rejected += [Rejected(head + r.key, r.reason) for r in merged.rejected]
        return Merged(tuple(news), tuple(rejected))


def _by_head(keys: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for key in keys:
        found.setdefault(key[:HEAD_SIZE], []).append(key[HEAD_SIZE:])
    return found


def wrap(range: AddressRange, message: bytes) -> bytes:
    """A message between the allocators of one range."""
    return range.head() + message


def unwrap(data: bytes) -> tuple[bytes, bytes]:
    """The head of the range that it is about, and the message. Raises MalformedMessageError."""
    if len(data) < HEAD_SIZE:
        raise MalformedMessageError("an ipam message without a range")
    return data[:HEAD_SIZE], data[HEAD_SIZE:]


def check_ranges(ranges: Sequence[AddressRange]) -> None:
    """Ranges of one mesh lie apart. Raises OperatorError "bad-range"."""
    if len(ranges) > MAX_RANGES:
        raise OperatorError(f"at most {MAX_RANGES} ranges", "bad-range")
    for n, one in enumerate(ranges):
        for other in ranges[:n]:
            if one.family == other.family and one.start < other.end and other.start < one.end:
                raise OperatorError(f"{one} and {other} overlap", "bad-range")
