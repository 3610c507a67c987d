"""Who divides the range, once: single-decree Paxos over gossip (docs/ipam.md R10, R11).

Who drives it: ``ipam.allocator``, at the first need of an address. Each elector publishes what it
promised and what it accepted; everybody reads everybody's. A value is decided when a quorum of
electors, counted by identity, accepted it under one ballot.

Invariant: two decided values are equal, for a quorum's promise forbids what an older ballot has
not brought to a quorum already. An elector speaks only of votes that are durable.
Source: L. Lamport, "Paxos Made Simple", 2001.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from ipam.address import AddressRange
from mesh.clock import Instant
from mesh.crypto.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, verify
from mesh.errors import MalformedMessageError
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import NAME_SIZE, PeerName
from mesh.wire.codec import Reader, Writer

CHANNEL = "ipam-election"
CONTEXT = b"weaver ipam vote v1"
CLUSTER_SIZE = 16
RANGE_SIZE = 18
MAX_ELECTORS = 4096


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """Higher rounds win; of one round, the higher name."""

    round: int
    proposer: PeerName


@dataclass(frozen=True, slots=True)
class Value:
    """What is elected: the cluster's id, and the peers that divide the range."""

    cluster: bytes
    owners: tuple[PeerName, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """All that an elector has ever promised and accepted, in its newest version."""

    public_key: bytes
    range: bytes
    version: int
    promised: Ballot
    accepted: Ballot | None
    value: Value | None
    signature: bytes = bytes(SIGNATURE_SIZE)

    @property
    def name(self) -> PeerName:
        return PeerName.of(self.public_key)

    def signed_part(self) -> bytes:
        out = Writer().raw(self.public_key).raw(self.range).u64(self.version)
        out.u64(self.promised.round).name(self.promised.proposer)
        out.u8(self.accepted is not None)
        if self.accepted is not None and self.value is not None:
            out.u64(self.accepted.round).name(self.accepted.proposer)
            out.raw(self.value.cluster).u16(len(self.value.owners))
            for owner in self.value.owners:
                out.name(owner)
        return out.done()

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises MalformedMessageError."""
        reader = Reader(data)
        key, head, version = reader.raw(PUBLIC_KEY_SIZE), reader.raw(RANGE_SIZE), reader.u64()
        promised = Ballot(reader.u64(), reader.name())
        accepted, value = None, None
        if reader.u8():
            accepted = Ballot(reader.u64(), reader.name())
            cluster, count = reader.raw(CLUSTER_SIZE), reader.u16()
            if not 0 < count <= MAX_ELECTORS:
                raise MalformedMessageError(f"a value of {count} owners")
            value = Value(cluster, tuple(reader.name() for _ in range(count)))
        signature = reader.raw(SIGNATURE_SIZE)
        reader.end()
        return cls(key, head, version, promised, accepted, value, signature)


class Election:
    """Our vote, everybody's votes, and what follows from them. A gossip channel."""

    name = CHANNEL

    def __init__(
        self, identity: Identity, range: AddressRange, quorum: int, stored: bytes | None = None
    ) -> None:
        self._identity, self._range, self.quorum = identity, range.head(), quorum
        self.us = identity.name
        self.votes: dict[PeerName, Vote] = {}
        self.meets_another_range = False
        """Somebody votes about a range that is not ours."""
        self._spoken: Vote | None = None
        """Our vote as the store has it: what digests show."""
        if stored is not None:
            self.votes[self.us] = self._spoken = Vote.decode(stored)

    @property
    def own(self) -> Vote | None:
        return self.votes.get(self.us)

    @property
    def decided(self) -> tuple[Ballot, Value] | None:
        """What a quorum accepted under one ballot."""
        count: dict[Ballot, int] = {}
        for vote in self.votes.values():
            if vote.accepted is not None and vote.value is not None:
                count[vote.accepted] = count.get(vote.accepted, 0) + 1
                if count[vote.accepted] >= self.quorum:
                    return vote.accepted, vote.value
        return None

    @property
    def top(self) -> Ballot | None:
        """The highest ballot that anybody has promised."""
        return max((vote.promised for vote in self.votes.values()), default=None)

    def propose(self) -> Vote:
        """Start a ballot above every one that was seen."""
        top = self.top
        return self._vote(promised=Ballot(1 if top is None else top.round + 1, self.us))

    def abstain(self) -> Vote | None:
        """A vote that promises nothing: it tells those who cannot know it which range is ours."""
        return self._vote() if self.own is None else None

    def think(
        self, awaited: Iterable[PeerName], cluster: bytes, *, hurry: bool = False
    ) -> Vote | None:
        """Our next vote, given everybody's; None when there is nothing to add.

        Were it ours to choose, we elect whoever promised, once all the ``awaited`` did or there is
        ``hurry``: who promised has our range and can use what it is given.
        """
        top = self.top
        if top is None:
            return None
        own = self.own
        if own is None or own.promised < top:
            return self._vote(promised=top)
        if own.accepted is not None and own.accepted >= top:
            return None
        if top.proposer == self.us:
            promises = [v for v in self.votes.values() if v.promised == top]
            promised = {v.name for v in promises}
            if len(promises) < self.quorum or not (hurry or promised >= set(awaited)):
                return None
            earlier = [(v.accepted, v.value) for v in promises if v.accepted and v.value]
            value = Value(cluster, tuple(sorted(promised)))
            if earlier:
                value = max(earlier, key=lambda pair: pair[0])[1]
            return self._vote(accepted=top, value=value)
        said = self.votes.get(top.proposer)
        if said is not None and said.accepted == top and said.value is not None:
            return self._vote(accepted=top, value=said.value)
        return None

    def _vote(
        self,
        promised: Ballot | None = None,
        accepted: Ballot | None = None,
        value: Value | None = None,
    ) -> Vote:
        """Cast a new version of our vote."""
        own = self.own
        if own is None:
            key = self._identity.public_key
            own = Vote(key, self._range, 0, Ballot(0, self.us), None, None)
        own = replace(
            own,
            version=own.version + 1,
            promised=promised or own.promised,
            accepted=accepted or own.accepted,
            value=value or own.value,
        )
        signature = self._identity.sign(CONTEXT, own.signed_part())
        own = self.votes[self.us] = replace(own, signature=signature)
        return own

    # ---- the channel

    def saved(self, octets: bytes) -> None:
        """Our vote is durable in this version, and may be spoken."""
        if self.own is not None and self.own.encode() == octets:
            self._spoken = self.own

    def _shown(self, name: PeerName) -> Vote | None:
        return self._spoken if name == self.us else self.votes.get(name)

    def digest(self) -> Mapping[bytes, int]:
        shown = {name.octets: vote.version for name, vote in self.votes.items()}
        shown.pop(self.us.octets, None)
        if self._spoken is not None:
            shown[self.us.octets] = self._spoken.version
        return shown

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        votes = [self._shown(PeerName(key)) for key in keys if len(key) == 8]
        return [Item(v.name.octets, v.version, v.encode()) for v in votes if v is not None]

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news: list[bytes] = []
        rejected: list[Rejected] = []
        for item in items:
            known = self.votes.get(PeerName(item.key)) if len(item.key) == NAME_SIZE else None
            if known is not None and known.version >= item.stamp:
                continue  # most of what gossip repeats
            try:
                vote = Vote.decode(item.payload)
            except MalformedMessageError as err:
                rejected.append(Rejected(item.key, err.reason))
                continue
            held = self.votes.get(vote.name)
            if vote.name.octets != item.key or vote.version != item.stamp:
                rejected.append(Rejected(item.key, "mislabelled"))
            elif held is not None and held.version >= vote.version:
                continue
            elif not verify(vote.public_key, CONTEXT, vote.signed_part(), vote.signature):
                rejected.append(Rejected(item.key, "bad-signature"))
            elif vote.range != self._range:
                rejected.append(Rejected(item.key, "range-mismatch"))
                self.meets_another_range = True
            elif vote.name == self.us:
                # Ours and newer than we know: the store we started from is old, the vote stands.
                self.votes[self.us] = self._spoken = vote
            elif held is None and len(self.votes) >= MAX_ELECTORS:
                rejected.append(Rejected(item.key, "too-many-electors"))
            else:
                self.votes[vote.name] = vote
                news.append(item.key)
        return Merged(tuple(news), tuple(rejected))
