"""A relay's time, shared by those it relays for (docs/sleeve.md 11).

Who drives it: the worker's receiver, for each run that is on its way to somebody else. While more
comes than we can send on, who sends more than an equal share has the rest dropped before any work
is done for it, so that the others lose nothing by it. Source: R. Pan, L. Breslau, B. Prabhakar,
S. Shenker, "Approximate fairness through differential dropping", 2003; shares are computed here,
not estimated, for there are few pairs of peers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mesh.clock import Instant

WINDOW = 0.02
"""Seconds over which what comes is counted; what came before fades by half with each."""

FADED = 128
"""Octets below which a pair is no longer counted."""

LESS, MORE = 0.95, 1.05
"""The factors by which what is sent on changes from a window to the next, while something stands
and while nothing does."""

FLOOR = 0.5
"""Of what we sent on when we could not keep up and dropped nothing: so much is sent on whatever
stands, for it may stand because there is so much to drop."""

MOST = 4096
"""Pairs that are told apart in one window; of others everything is sent on."""

Pair = tuple[int, int]


class FairShare:
    """``sends(pair, octets)`` says whether so much from one peer to another is sent on."""

    __slots__ = ("_came", "_capacity", "_debt", "_dropped", "_excess", "_since", "_stood")

    def __init__(self) -> None:
        self._since = Instant(0.0)
        self._came: dict[Pair, int] = {}
        self._dropped = 0
        self._excess: dict[Pair, float] = {}
        """The share of what a pair sends that is not sent on."""
        self._debt: dict[Pair, float] = {}
        self._stood = False
        self._capacity = 0

    @property
    def excess(self) -> Mapping[Pair, float]:
        """Of those who send too much, the share that is."""
        return self._excess

    def sends(self, pair: Pair, octets: int) -> bool:
        came = self._came
        if pair in came:
            came[pair] += octets
        elif len(came) < MOST:
            came[pair] = octets
        excess = self._excess.get(pair)
        if excess is None:
            return True
        debt = self._debt.get(pair, 0.0) + excess * octets
        if debt < octets:
            self._debt[pair] = debt
            return True
        self._debt[pair] = debt - octets
        self._dropped += octets
        return False

    def turn(self, *, standing: bool, now: Instant) -> None:
        """The end of a turn at the socket; ``standing``: more waits there than we keep up with."""
        self._stood = self._stood or standing
        if now - self._since < WINDOW:
            return
        came, sent = self._came, sum(self._came.values()) - self._dropped
        if self._stood and not self._excess:
            self._capacity = sent
        if not (self._stood or self._excess) or is_alone(came):
            self._excess = {}
        else:
            # While nothing stands there is room for a little more, until nothing is dropped.
            room = sent * (LESS if self._stood else MORE)
            self._excess = excesses(came, max(room, FLOOR * self._capacity))
        if not self._excess:
            self._debt.clear()
        # What came before counts half: who sends little is not new in every window.
        self._came = {pair: octets // 2 for pair, octets in came.items() if octets >= FADED}
        self._dropped //= 2
        self._stood, self._since = False, now


def is_alone(came: Collection[Pair]) -> bool:
    """Whether all that came is between the same two: nobody is there to be fair to."""
    return len(came) <= 2 and len({frozenset(pair) for pair in came}) < 2


def excesses(came: dict[Pair, int], room: float) -> dict[Pair, float]:
    """What share of each pair's octets is too much, when so many octets are for all of them: the
    largest equal share that fits, whoever sends less leaving the rest to the others."""
    left, level = room, 0.0
    waiting = sorted(came.items(), key=lambda entry: entry[1])
    for n, (_, octets) in enumerate(waiting):
        level = left / (len(waiting) - n)
        if octets > level:
            return {pair: 1 - level / more for pair, more in waiting[n:]}
        left -= octets
    return {}
