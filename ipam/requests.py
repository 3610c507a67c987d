"""Requests that wait for space, the donor that was asked, and how long anybody waits. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from ipam.address import Address
from ipam.effects import AllocationKey
from mesh.clock import Instant
from mesh.names import PeerName

ASK_TIMEOUT = 2.0
"""Seconds a donor has to answer before the next one is asked."""

PATIENCE = 30.0
"""Seconds a request waits for space before it is refused; it is retried by whoever asked."""

GATHER = 1.0
"""Seconds that promises are gathered for when there is a quorum of them: who has not promised by
then gets no slice, and has to ask for space."""

PROPOSE_INTERVAL = 5.0
"""Seconds until an election that got nowhere is proposed again."""

ASK_AGAIN = 1.0
"""Seconds until everybody is asked once more, when nobody had space."""

DENIAL = 10.0
"""Seconds that a peer which had no space is asked after those that may have some."""

LOOK_AGAIN = 0.05
"""Seconds at the least until the next look at what should have been possible already."""

MAX_PENDING = 10_000


@dataclass(slots=True)
class Pending:
    request: int
    key: AllocationKey
    until: Instant
    wanted: Address | None = None
    force: bool = False
    """Also one that is excluded."""


class Waiting(dict[int, Pending]):
    """By request, in the order they came."""

    @property
    def needs_space(self) -> bool:
        """Whether any of them is content with whatever address there is."""
        return any(pending.wanted is None for pending in self.values())

    @property
    def first_until(self) -> Instant | None:
        """When the first of them gives up: who came first, for all are equally patient."""
        for pending in self.values():
            return pending.until
        return None

    def wanted(self) -> set[Address]:
        return {pending.wanted for pending in self.values() if pending.wanted is not None}

    def expired(self, now: Instant) -> list[Pending]:
        """Those who waited long enough; they wait no more."""
        late = list(takewhile(lambda pending: pending.until <= now, self.values()))
        return [self.pop(pending.request) for pending in late]

    def denied(self, address: Address) -> list[Pending]:
        """Those who wanted this very address; they wait no more."""
        return [self.pop(p.request) for p in list(self.values()) if p.wanted == address]


@dataclass(slots=True)
class Asking:
    """The donor that was asked, and those not asked yet."""

    donor: PeerName
    number: int
    until: Instant
    had: int
    """Addresses that were ours when it was asked."""
    others: list[PeerName] = field(default_factory=list)
