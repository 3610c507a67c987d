"""The allocator: addresses by key, space by asking, a ring by election. Pure.

Who drives it: ``ipam.drivers.service``; in tests the simulator.

    allocate --have space--> Persist, Answer
        | none: ring empty --> election        (deferred until this first need)
        ` none: ring there --> REQUEST to one owner after another --> DONATE --> Persist, Answer

Invariants: an address is answered only behind the Persist that records it; a slice is given away
only behind the Persist that takes it from us; one key has one address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipam.address import Address, AddressRange
from ipam.changes import announced, persisted
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    DropAllocation,
    LostAddress,
    Persist,
    Publish,
    Refused,
    SendTo,
    SetAllocation,
    SetVote,
    Stored,
)
from ipam.election import CHANNEL as ELECTION
from ipam.election import Election
from ipam.handover import Handover
from ipam.messages import Message, MessageKind, decode
from ipam.requests import (
    ASK_AGAIN,
    ASK_TIMEOUT,
    GATHER,
    LOOK_AGAIN,
    MAX_PENDING,
    PATIENCE,
    PROPOSE_INTERVAL,
    Asking,
    Pending,
)
from ipam.ring import CHANNEL as RING
from ipam.ring import Ring, Slice, decode_slice
from ipam.space import REST, Space
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.gossip.channel import Item
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random


class Allocator:
    """``quorum`` electors decide; 1 for whoever is alone or ``--seed``; observers do not vote.

    Raises MalformedMessageError when what was ``stored`` makes no sense."""

    def __init__(
        self,
        identity: Identity,
        range: AddressRange,
        rng: Random,
        *,
        entropy_id: bytes,
        electors: int = 1,
        observer: bool = False,
        stored: Stored | None = None,
        rest: float = REST,
    ) -> None:
        stored = stored or Stored()
        self.us, self.range, self._rng = identity.name, range, rng
        self._cluster_proposal, self._observer = entropy_id, observer
        self.ring = Ring.restored(identity, range, stored.cluster, stored.slices)
        self.election = Election(identity, range, electors // 2 + 1, stored.vote)
        self.space = Space(range, rest)
        self.allocations: dict[AllocationKey, Address] = dict(stored.allocations)
        if not all(address in range for address in self.allocations.values()):
            raise MalformedMessageError("an allocation outside the range")
        self._holders = {address: key for key, address in self.allocations.items()}
        self.space.used.update(self.allocations.values())
        self._reachable: dict[PeerName, str] = {}
        self._pending: dict[int, Pending] = {}
        self._asking: Asking | None = None
        self._retry_at: Instant | None = None
        self._number = rng.getrandbits(31)
        self._propose_at: Instant | None = None
        self._hurry_at: Instant | None = None
        self.leaving = Handover(self.ring, rng)
        self._own_space()

    # ---- requests

    def allocate(self, request: int, key: AllocationKey, now: Instant) -> list[AllocatorEffect]:
        """An address for a key: the one it has, or the next free one."""
        effects: list[AllocatorEffect] = []
        if not self._answer_now(request, key, None, effects, now):
            self._wait(Pending(request, key, Instant(now + PATIENCE)), effects, now)
        return self._armed(effects, now)

    def claim(
        self, request: int, key: AllocationKey, address: Address, now: Instant
    ) -> list[AllocatorEffect]:
        """This very address for a key."""
        effects: list[AllocatorEffect] = []
        if not self._answer_now(request, key, address, effects, now):
            pending = Pending(request, key, Instant(now + PATIENCE), address)
            self._wait(pending, effects, now)
        return self._armed(effects, now)

    def free(self, request: int, key: AllocationKey, now: Instant) -> list[AllocatorEffect]:
        """The key's address is nobody's any more; fine too when it had none."""
        effects: list[AllocatorEffect] = []
        address = self.allocations.pop(key, None)
        if address is not None:
            self._holders.pop(address, None)
            self.space.release(address, now)
            effects.append(Persist((DropAllocation(key),)))
        effects.append(Answer(request, Allocated(address)))
        return self._armed(effects, now)

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def holder_of(self, address: Address) -> AllocationKey | None:
        return self._holders.get(address)

    def seed(
        self, request: int, owners: tuple[PeerName, ...], now: Instant
    ) -> list[AllocatorEffect]:
        """The operator says who divides the range: no election is needed."""
        if self.ring.is_seeded:
            return [Answer(request, Refused("already-seeded"))]
        changed = self.ring.seed(self._cluster_proposal, sorted({*owners, self.us}))
        effects = [*self._gained(changed, now, cluster=True), Answer(request, Allocated(None))]
        return self._armed(effects, now)

    def reclaim(self, request: int, peer: PeerName, now: Instant) -> list[AllocatorEffect]:
        """Take over the space of a peer that is gone for good; refused while it is alive."""
        if peer == self.us or peer in self._reachable:
            return [Answer(request, Refused("peer-alive"))]
        changed = self.ring.take_over(peer)
        if not changed:
            return [Answer(request, Refused("owns-nothing"))]
        effects = [*self._gained(changed, now), Answer(request, Allocated(None))]
        return self._armed(effects, now)

    def leave(self, now: Instant) -> list[AllocatorEffect]:
        """Hand all our space to another peer, which must say that it is durable there."""
        effects = self.leaving.begin(self._reachable, now)
        self._serve(effects, now)
        return self._armed(effects, now)

    def stay(self, now: Instant) -> list[AllocatorEffect]:
        """Leaving took too long and is called off."""
        self.leaving.give_up()
        return self._armed([], now)

    # ---- the mesh

    def peers(self, reachable: dict[PeerName, str], now: Instant) -> list[AllocatorEffect]:
        """Who can be reached now, with nicknames."""
        self._reachable = dict(reachable)
        self.leaving.leavers.intersection_update(reachable)
        effects: list[AllocatorEffect] = []
        if self._asking is not None and self._asking.donor not in reachable:
            self._ask_next(effects, now)
        if self._pending and self._asking is None:
            self._seek(effects, now)
        return self._armed(effects, now)

    def receive(self, src: PeerName, data: bytes, now: Instant) -> list[AllocatorEffect]:
        """A unicast of another allocator. Raises MalformedMessageError."""
        message = decode(data)
        effects: list[AllocatorEffect] = []
        match message.kind:
            case MessageKind.REQUEST:
                self.leaving.leavers.discard(src)
                self._donate(src, message.number, effects)
            case MessageKind.DONATE:
                self._take_in(src, message, effects, now)
                self._donor_answered(src, message.number, effects, now)
            case MessageKind.HANDOVER:
                self._take_in(src, message, effects, now)
                effects.append(self.leaving.inherit(src, message))
            case MessageKind.DENIED | MessageKind.ACK:
                self._donor_answered(src, message.number, effects, now)
                effects += self.leaving.answered(
                    message.kind, src, message.number, self._reachable, now
                )
                self._own_space()
        return self._armed(effects, now)

    def channel_changed(self, channel: str, now: Instant) -> list[AllocatorEffect]:
        """Gossip brought something to the ring or the election."""
        effects: list[AllocatorEffect] = []
        if channel == RING:
            effects += self._merged(now)
        elif channel == ELECTION and not self.ring.is_seeded:
            self._elect(effects, now)
        return self._armed(effects, now)

    def handle_timer(self, now: Instant) -> list[AllocatorEffect]:
        effects: list[AllocatorEffect] = []
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
        for pending in [p for p in self._pending.values() if p.until <= now]:
            del self._pending[pending.request]
            reason = "no-space" if self.ring.is_seeded else "no-quorum"
            effects.append(Answer(pending.request, Refused(reason)))
        if self.leaving.until is not None and now >= self.leaving.until:
            effects += self.leaving.go_on(self._reachable, now)
        if self._asking is not None and now >= self._asking.until:
            self._ask_next(effects, now)
        if self._hurry_at is not None and now >= self._hurry_at:
            if not self.ring.is_seeded:
                self._elect(effects, now)
            self._hurry_at = None
        if self._propose_at is not None and now >= self._propose_at:
            self._propose_at = None
            if self._pending and not self.ring.is_seeded:
                self._propose(effects, now)
        if self._pending:
            self._serve(effects, now)
            if self._pending and self._asking is None and self._propose_at is None:
                self._seek(effects, now)
        return self._armed(effects, now)

    # ---- answers

    def _answer_now(
        self,
        request: int,
        key: AllocationKey,
        wanted: Address | None,
        effects: list[AllocatorEffect],
        now: Instant,
    ) -> bool:
        """Answer a request if it can be; the key's own address always can."""
        held = self.allocations.get(key)
        if held is not None:
            same = wanted is None or wanted == held
            effects.append(Answer(request, Allocated(held) if same else Refused("key-in-use")))
            return True
        if self.leaving.is_active or self.leaving.has_left:
            effects.append(Answer(request, Refused("leaving")))
            return True
        if wanted is None:
            address = self.space.take(now)
            if address is None:
                return False
        else:
            reason = self.space.take_this(wanted)
            if reason == "not-our-space" and not self.ring.is_seeded:
                return False
            if reason is not None:
                effects.append(Answer(request, Refused(reason)))
                return True
            address = wanted
        self.allocations[key] = address
        self._holders[address] = key
        effects += [Persist((SetAllocation(key, address),)), Answer(request, Allocated(address))]
        return True

    def _wait(self, pending: Pending, effects: list[AllocatorEffect], now: Instant) -> None:
        if len(self._pending) >= MAX_PENDING:
            effects.append(Answer(pending.request, Refused("too-many-requests")))
            return
        self._pending[pending.request] = pending
        if self._asking is None:
            self._seek(effects, now)
            self._serve(effects, now)

    def _serve(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Answer those that wait, in order, as far as there is space."""
        for pending in list(self._pending.values()):
            if self._answer_now(pending.request, pending.key, pending.wanted, effects, now):
                del self._pending[pending.request]
            elif pending.wanted is None:
                return

    # ---- space from others

    def _seek(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Somebody waits for an address that we do not have: elect, or ask."""
        if not self.ring.is_seeded:
            if self._propose_at is None and not self._observer:
                self._propose(effects, now)
            return
        shares = self.ring.shares()
        donors = [p for p in shares if p in self._reachable and p not in self.leaving.leavers]
        # The larger a share, the likelier it has room; chance spreads those who ask at once.
        donors.sort(key=lambda p: shares[p] * (0.5 + self._rng.random()))
        self._asking = None
        if donors:
            self._ask(donors, effects, now)
        else:
            self._retry_at = Instant(now + ASK_AGAIN)

    def _ask(self, donors: list[PeerName], effects: list[AllocatorEffect], now: Instant) -> None:
        donor = donors.pop()
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._asking = Asking(donor, self._number, Instant(now + ASK_TIMEOUT), donors)
        effects.append(SendTo(donor, Message(MessageKind.REQUEST, self._number).encode()))

    def _ask_next(self, effects: list[AllocatorEffect], now: Instant) -> None:
        assert self._asking is not None
        donors = [p for p in self._asking.others if p in self._reachable]
        self._asking = None
        if donors and self._pending:
            self._ask(donors, effects, now)
        else:
            self._retry_at = Instant(now + ASK_AGAIN)

    def _donor_answered(
        self, src: PeerName, number: int, effects: list[AllocatorEffect], now: Instant
    ) -> None:
        asking = self._asking
        if asking is None or (asking.donor, asking.number) != (src, number):
            return
        self._serve(effects, now)
        if self._pending:
            self._ask_next(effects, now)
        else:
            self._asking = None

    def _donate(self, src: PeerName, number: int, effects: list[AllocatorEffect]) -> None:
        block = None if self.leaving.is_active else self.space.spare_block()
        if block is None or not self.ring.is_seeded:
            effects.append(SendTo(src, Message(MessageKind.DENIED, number).encode()))
            return
        changed = self.ring.give(*block, src)
        self._own_space()
        effects += announced(self.ring, changed)
        octets = tuple(self.ring.encoded(piece) for piece in changed)
        effects.append(SendTo(src, Message(MessageKind.DONATE, number, octets).encode()))

    def _take_in(
        self, src: PeerName, message: Message, effects: list[AllocatorEffect], now: Instant
    ) -> None:
        items = []
        for data in message.slices:
            _, piece = decode_slice(data)
            items.append(Item(piece.key, piece.stamp, data))
        merged = self.ring.merge(items, src, now)
        effects += self._merged(now)
        if merged.news:
            effects.append(Publish(RING, merged.news))

    def _merged(self, now: Instant) -> list[AllocatorEffect]:
        """What merges brought to the ring: keep it, use what is ours, defend it."""
        changed = self.ring.take_changed()
        effects: list[AllocatorEffect] = []
        if changed:
            effects += [persisted(self.ring, changed, cluster=True)]
            self._propose_at = None
            self._own_space()
            effects += [
                Notify(LostAddress(key, address))
                for address, key in self._holders.items()
                if any(p.start <= address < p.end and p.owner != self.us for p in changed)
            ]
        for start, conflict in list(self.ring.conflicts.items()):
            if conflict.held.owner == self.us and conflict.said.version >= conflict.held.version:
                again = self.ring.reassert(start, conflict.said.version)
                self.ring.conflicts[start] = conflict
                effects += announced(self.ring, [again])
        if self._pending:
            self._serve(effects, now)
            if self._pending and self._asking is None:
                self._seek(effects, now)
        return effects

    # ---- election

    def _propose(self, effects: list[AllocatorEffect], now: Instant) -> None:
        self.election.propose()
        spread = 0.5 + self._rng.random()
        self._propose_at = Instant(now + PROPOSE_INTERVAL * spread)
        self._hurry_at = Instant(now + GATHER)
        self._speak(effects)
        self._elect(effects, now)

    def _elect(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Vote as far as the votes we know allow, and make the ring when ours was the ballot."""
        if self._observer:
            return
        if self.election.meets_another_range and self.election.abstain() is not None:
            self._speak(effects)
        hurry = self._hurry_at is not None and now >= self._hurry_at
        awaited = [*self._reachable, self.us]
        while self.election.think(awaited, self._cluster_proposal, hurry=hurry) is not None:
            self._speak(effects)
        decided = self.election.decided
        if decided is not None and decided[0].proposer == self.us and not self.ring.is_seeded:
            value = decided[1]
            changed = self.ring.seed(value.cluster, value.owners)
            effects += self._gained(changed, now, cluster=True)

    def _speak(self, effects: list[AllocatorEffect]) -> None:
        vote = self.election.own
        assert vote is not None
        effects += [Persist((SetVote(vote.encode()),)), Publish(ELECTION, (self.us.octets,))]

    # ---- bookkeeping

    def _own_space(self) -> None:
        self.space.own((s.start, s.end) for s in self.ring.owned(self.us))
        self.space.barred = {
            start for start, c in self.ring.conflicts.items() if c.reason == "version-reused"
        }

    def _gained(
        self, changed: list[Slice], now: Instant, cluster: bool = False
    ) -> list[AllocatorEffect]:
        """Our own change of the ring that brought us space: those who wait have it at once."""
        effects = announced(self.ring, changed, cluster)
        self._own_space()
        self._propose_at = None
        self._serve(effects, now)
        if self._pending and self._asking is None:
            self._seek(effects, now)
        return effects

    def _armed(self, effects: list[AllocatorEffect], now: Instant) -> list[AllocatorEffect]:
        wishes = [p.until for p in self._pending.values()]
        if self._asking is not None:
            wishes.append(self._asking.until)
        wishes += [at for at in (self._propose_at, self._hurry_at) if at is not None]
        if self.leaving.until is not None:
            wishes.append(self.leaving.until)
        if self._pending and self._retry_at is not None:
            wishes.append(self._retry_at)
        if self._pending and (rested := self.space.next_rested()) is not None:
            wishes.append(rested)
        # What is overdue waits for something else, a message or a dispute's end: look again soon,
        # not for ever at this instant.
        soonest = max(min(wishes), Instant(now + LOOK_AGAIN)) if wishes else None
        effects.append(Arm(soonest))
        return effects
