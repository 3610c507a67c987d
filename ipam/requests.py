"""Requests that wait for space, the donor that was asked, and how long anybody waits."""

from __future__ import annotations

from dataclasses import dataclass, field

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

LOOK_AGAIN = 0.05
"""Seconds at the least until the next look at what should have been possible already."""

MAX_PENDING = 10_000


@dataclass(slots=True)
class Pending:
    request: int
    key: AllocationKey
    until: Instant
    wanted: Address | None = None


@dataclass(slots=True)
class Asking:
    """The donor that was asked, and those not asked yet."""

    donor: PeerName
    number: int
    until: Instant
    others: list[PeerName] = field(default_factory=list)
