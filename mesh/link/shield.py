"""A filter in the kernel while strangers flood us: datagrams without a known tag end there.

The tag of an epoch cannot be guessed (docs/protocol.md 10.3), so who has not seen a datagram of it
is told apart by four octets at a fixed place, which classic BPF does before a datagram is queued;
together with who it says it is from, for a tag is good for one peer. What is for other peers has
tags that a relay does not know: it passes where we know the peer it is from and a way to the other.
It stands only during a flood: at other times every drop is counted by its own reason.

    DOWN --many strangers in a second--> UP --few dropped, for a while--> DOWN
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mesh.clock import Instant
from mesh.link.shedding import MOST_PAIRS
from mesh.names import ShortID
from mesh.wire.sleeve import SEQ_AT

RAISE_AT = 1_000
"""Datagrams of strangers in a second that are worth a filter: some per cent of a processor."""

LOWER_AT = 100
QUIET = 10.0
"""Seconds with fewer dropped in each, after which it is lowered."""

MAX_TAGS = 1_500
"""More instructions than these make are not taken."""

MAX_INSTRUCTIONS = 4_096
"""BPF_MAXINSNS."""

ROOM = 1 + 7 * MOST_PAIRS
"""Instructions of ``shedding`` at the most."""

_UDP = 8  # what a filter of a UDP socket sees begins with the UDP header
_SRC, _DST, _TAG, _NUMBER = _UDP + 2, _UDP + 4, _UDP + 8, _UDP + SEQ_AT + 4
_LOAD16, _LOAD32, _EQUAL, _JUMP, _RETURN = 0x28, 0x20, 0x15, 0x05, 0x06
_AT_LEAST, _XOR_WITH, _TIMES = 0x35, 0xA4, 0x24
_SPREAD = 2_654_435_761
"""2**32 by the golden ratio: the products of numbers that follow each other, modulo 2**32, lie as
far apart as may be."""

_KEEP, _XOR = 0x07, 0xAC
"""BPF_MISC|BPF_TAX and BPF_ALU|BPF_XOR|BPF_X: put a value aside; mix it into another."""

_ACCEPT, _DROP = 0xFFFF_FFFF, 0

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, operand), as in linux/filter.h."""

Badge = tuple[ShortID, int]
"""Who may show a tag, and the tag."""


def program(
    us: ShortID,
    badges: Collection[Badge],
    senders: Collection[ShortID] = (),
    reached: Collection[ShortID] = (),
) -> list[Instruction]:
    """Accept what is for us and has one of these badges, and what is from one of the ``senders``
    for one of the ``reached``. Where all of that is too long, whatever is for others."""
    ours: list[Instruction] = [
        (_LOAD32, 0, 0, _SRC),  # source and destination
        (_KEEP, 0, 0, 0),
        (_LOAD32, 0, 0, _TAG),
        (_XOR, 0, 0, 0),
    ]
    for src, tag in badges:
        ours += [(_EQUAL, 0, 1, tag ^ src << 16 ^ us), (_RETURN, 0, 0, _ACCEPT)]
    ours.append((_RETURN, 0, 0, _DROP))
    others: list[Instruction] = [(_LOAD16, 0, 0, _SRC)]
    for n, short_id in enumerate(senders):
        rest = 2 * (len(senders) - n - 1) + 1  # over what is left of the senders
        others += [(_EQUAL, 0, 1, short_id), (_JUMP, 0, 0, rest)]
    others += [(_RETURN, 0, 0, _DROP), (_LOAD16, 0, 0, _DST)]
    for short_id in reached:
        others += [(_EQUAL, 0, 1, short_id), (_RETURN, 0, 0, _ACCEPT)]
    others.append((_RETURN, 0, 0, _DROP))
    if len(ours) + len(others) > MAX_INSTRUCTIONS - 3 - ROOM:
        others = [(_RETURN, 0, 0, _ACCEPT)]
    first = [(_LOAD16, 0, 0, _DST), (_EQUAL, 0, 1, us), (_JUMP, 0, 0, len(others))]
    return [*first, *others, *ours]


def shedding(shares: Mapping[tuple[int, int], float], salt: int) -> list[Instruction]:
    """Steps that drop so much of what is from the first of a pair for the second; to be followed by
    others, or by ``ACCEPT_ALL``. A record passes whole or not at all, as its number and ``salt``
    say: 32 bits that senders do not know, and others every time."""
    steps: list[Instruction] = [(_LOAD32, 0, 0, _SRC)]
    for n, ((src, dst), share) in enumerate(shares.items()):
        rest = 7 * (len(shares) - n - 1)
        steps += [
            (_EQUAL, 0, 6, src << 16 | dst),
            (_LOAD32, 0, 0, _NUMBER),
            (_XOR_WITH, 0, 0, salt),
            (_TIMES, 0, 0, _SPREAD),
            (_AT_LEAST, 1, 0, min(int(share * 0x1_0000_0000), 0xFFFF_FFFF)),
            (_RETURN, 0, 0, _DROP),
            (_JUMP, 0, 0, rest),
        ]
    return steps


ACCEPT_ALL: list[Instruction] = [(_RETURN, 0, 0, _ACCEPT)]


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
