"""A filter in the kernel while strangers flood us: datagrams without a known tag end there.

The tag of an epoch cannot be guessed (docs/protocol.md 10.3), so who has not seen a datagram of it
is told apart by four octets at a fixed place, which classic BPF does before a datagram is queued.
It stands only during a flood: at other times every drop is counted by its own reason.

    DOWN --many strangers in a second--> UP --few dropped, for a while--> DOWN

What is for other peers passes: a relay does not know their tags.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.clock import Instant
from mesh.names import ShortID

RAISE_AT = 1_000
"""Datagrams of strangers in a second that are worth a filter: some per cent of a processor."""

LOWER_AT = 100
QUIET = 10.0
"""Seconds with fewer dropped in each, after which it is lowered."""

MAX_TAGS = 1_500
"""More instructions than these make are not taken (BPF_MAXINSNS, 4,096)."""

_UDP = 8  # what a filter of a UDP socket sees begins with the UDP header
_DST, _TAG = _UDP + 4, _UDP + 8
_LOAD16, _LOAD32, _EQUAL, _RETURN = 0x28, 0x20, 0x15, 0x06
_ACCEPT, _DROP = 0xFFFF_FFFF, 0

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, operand), as in linux/filter.h."""


def program(us: ShortID, tags: Iterable[int]) -> list[Instruction]:
    """Accept what is for others, and what has one of these tags."""
    steps: list[Instruction] = [
        (_LOAD16, 0, 0, _DST),
        (_EQUAL, 1, 0, us),
        (_RETURN, 0, 0, _ACCEPT),
        (_LOAD32, 0, 0, _TAG),
    ]
    for tag in tags:
        steps += [(_EQUAL, 0, 1, tag), (_RETURN, 0, 0, _ACCEPT)]
    return [*steps, (_RETURN, 0, 0, _DROP)]


class Shield:
    """Call ``look`` every second; ``is_up`` is what it should be from then on."""

    def __init__(self) -> None:
        self.is_up = False
        self._busy_at = Instant(0.0)

    def look(self, strangers: int, tags: int, now: Instant) -> None:
        """So many datagrams were dropped since the last look because of who they were from; we
        know so many tags."""
        if strangers >= (LOWER_AT if self.is_up else RAISE_AT):
            self._busy_at = now
            self.is_up = True
        elif now - self._busy_at >= QUIET:
            self.is_up = False
        if not 0 < tags <= MAX_TAGS:
            self.is_up = False
