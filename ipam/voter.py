"""When to propose, when to vote: an elector's part in the election of owners. Pure.

Who drives it: ``ipam.allocator``; what a vote may say is ``ipam.election``'s to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ipam.effects import AllocatorEffect, Persist, Publish, SetVote
from ipam.election import CHANNEL, Ballot, Election, Value
from ipam.requests import GATHER, PROPOSE_INTERVAL
from mesh.clock import Instant
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random


class Voter:
    def __init__(
        self, election: Election, rng: Random, proposal: bytes, *, observer: bool = False
    ) -> None:
        self._election, self._rng, self._proposal = election, rng, proposal
        self._observer = observer
        self.propose_at: Instant | None = None
        """When to propose again."""
        self.hurry_at: Instant | None = None
        """When to go on without those who have not promised."""
        self._top: Ballot | None = None
        """Of the ballots of others the highest that we have given time to."""

    def propose(self, awaited: Iterable[PeerName], now: Instant) -> list[AllocatorEffect]:
        """Start a ballot of our own; ``won`` says whether that decided anything."""
        if self._observer or self.propose_at is not None:
            return []
        self._election.propose()
        self.propose_at = Instant(now + PROPOSE_INTERVAL * (0.5 + self._rng.random()))
        self.hurry_at = Instant(now + GATHER)
        return [*self._speak(), *self.vote(awaited, now)]

    def vote(self, awaited: Iterable[PeerName], now: Instant) -> list[AllocatorEffect]:
        """Vote as far as the votes we know allow."""
        effects: list[AllocatorEffect] = []
        if self._observer:
            return effects
        election = self._election
        self._give_way(now)
        if election.meets_another_range and election.abstain() is not None:
            effects += self._speak()
        hurry = self.hurry_at is not None and now >= self.hurry_at
        everybody = [*awaited, election.us]
        while election.think(everybody, self._proposal, hurry=hurry) is not None:
            effects += self._speak()
        if hurry:
            self.hurry_at = None
        return effects

    def _give_way(self, now: Instant) -> None:
        """Another's ballot is under way: ours would only put an end to it, and be ended by the
        next one's in turn. Whose it is may be gone: after a while we propose all the same."""
        top = self._election.top
        if top is not None and top.proposer != self._election.us and top != self._top:
            self._top = top
            self.propose_at = Instant(now + PROPOSE_INTERVAL * (0.5 + self._rng.random()))

    @property
    def won(self) -> Value | None:
        """What was decided under our ballot: it is ours to make the ring of it."""
        decided = None if self._observer else self._election.decided
        if decided is None or decided[0].proposer != self._election.us:
            return None
        return decided[1]

    def _speak(self) -> list[AllocatorEffect]:
        vote = self._election.own
        assert vote is not None
        return [Persist((SetVote(vote.encode()),)), Publish(CHANNEL, (vote.name.octets,))]
