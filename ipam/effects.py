"""What the allocator asks of its driver, and the values it deals in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipam.address import Address
from mesh.effects import Arm, Notify
from mesh.names import PeerName

if TYPE_CHECKING:
    from ipam.report import Report


@dataclass(frozen=True, slots=True, order=True)
class AllocationKey:
    """Who has an address: a container and one of its interfaces."""

    container: str
    interface: str


@dataclass(frozen=True, slots=True)
class SetCluster:
    cluster: bytes


@dataclass(frozen=True, slots=True)
class SetSlice:
    start: Address
    octets: bytes


@dataclass(frozen=True, slots=True)
class DropSlice:
    """Others lie on the whole of it: it counts nowhere any more."""

    start: Address


@dataclass(frozen=True, slots=True)
class SetAllocation:
    key: AllocationKey
    address: Address


@dataclass(frozen=True, slots=True)
class DropAllocation:
    key: AllocationKey


@dataclass(frozen=True, slots=True)
class SetVote:
    octets: bytes


Change = SetCluster | SetSlice | DropSlice | SetAllocation | DropAllocation | SetVote


@dataclass(frozen=True, slots=True)
class Stored:
    """All that a store gives back at start."""

    cluster: bytes | None = None
    vote: bytes | None = None
    slices: tuple[bytes, ...] = ()
    allocations: dict[AllocationKey, Address] = field(default_factory=dict)
    freed: tuple[Address, ...] = ()
    """What was freed and not given since, the one that was freed first at the beginning."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Make these changes durable, all or none, before any effect that follows."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Allocated:
    """Done; the address, where there is one."""

    address: Address | None


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What peers said of their addresses, and who said nothing."""

    reports: Mapping[PeerName, Report]
    silent: tuple[PeerName, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    request: int
    result: Allocated | Refused | Surveyed


@dataclass(frozen=True, slots=True)
class SendTo:
    peer: PeerName
    message: bytes


@dataclass(frozen=True, slots=True)
class Publish:
    channel: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LostAddress:
    """A container here has an address in space that was taken over."""

    key: AllocationKey
    address: Address


@dataclass(frozen=True, slots=True)
class Left:
    """Our space is another's, durably; None when there was nobody to give it to."""

    heir: PeerName | None


AllocatorEffect = Persist | Answer | SendTo | Publish | Arm | Notify[LostAddress] | Notify[Left]
