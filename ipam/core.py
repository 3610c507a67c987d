"""The allocator's parts at work: what the mesh and the time bring, and who is served by it. Pure.

Who drives it: ``ipam.allocator`` has the orders, this the rest of one and the same machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ipam.address import Address, AddressRange
from ipam.changes import announced, persisted
from ipam.donor import Donor
from ipam.donors import Donors
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Change,
    LostAddress,
    Persist,
    Publish,
    Refused,
    SendTo,
    SetAllocation,
    SetSlice,
    SetVote,
    Stored,
)
from ipam.election import CHANNEL as ELECTION
from ipam.election import Election
from ipam.estate import Estate
from ipam.exclusions import Excluded, Exclusion
from ipam.handover import Handover
from ipam.messages import Message, MessageKind, decode
from ipam.report import Report
from ipam.requests import LOOK_AGAIN, MAX_PENDING, Pending, Waiting
from ipam.returning import Return, newer
from ipam.ring import CHANNEL as RING
from ipam.ring import Ring
from ipam.slices import Slice, decode_slice
from ipam.space import REST, Space
from ipam.survey import Survey, make_report
from ipam.voter import Voter
from ipam.wants import Wants
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Arm, Notify
from mesh.gossip.channel import Item
from mesh.names import PeerName

if TYPE_CHECKING:
    from random import Random


class Core:
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
        takeover_rest: float | None = None,
        exclusions: Iterable[Exclusion] = (),
    ) -> None:
        """``takeover_rest``: of space that was taken over, never less than ``REST`` unless said."""
        stored = stored or Stored()
        self.us, self.range, self._rng = identity.name, range, rng
        self._cluster_proposal = entropy_id
        self.ring = Ring.restored(identity, range, stored.cluster, stored.slices)
        self.election = Election(identity, range, electors // 2 + 1, stored.vote)
        fence = max(rest, REST) if takeover_rest is None else takeover_rest
        self.rest = rest
        self.space = Space(range, rest, fence, Excluded(range, exclusions))
        self.estate = Estate(self.ring, range, self.space, stored)
        self._reachable: dict[PeerName, str] = {}
        self._pending = Waiting()
        self._voter = Voter(self.election, rng, entropy_id, observer=observer)
        self._donors = Donors(self.ring, rng)
        self._donor = Donor(self.ring, self.space, range)
        self.leaving = Handover(self.ring, rng)
        self.returning = Return(self.ring, rng)
        self.fence: str | None = None
        """Why nothing is given out here, whoever asks."""
        self._leaves = False
        self._wants = Wants(self.ring, rng)
        self._survey = Survey(rng)
        self.leaks = 0
        """Addresses here that nobody gives back, as far as whoever drives us knows."""

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    # ---- life

    def start(self, now: Instant, *, company: bool = True) -> list[AllocatorEffect]:
        """The daemon is up. ``company``: there are others, as far as anybody knows."""
        effects: list[AllocatorEffect] = []
        self.estate.start(now)
        if self.ring.is_seeded and (company or len(self.ring.shares()) > 1):
            effects += self.returning.begin(self._reachable, now)
        return self._armed(effects, now)

    def saved(self, changes: Iterable[Change]) -> None:
        """These are durable now, and may be spoken of."""
        for change in changes:
            if isinstance(change, SetSlice):
                self.ring.saved(change.start, change.octets)
            elif isinstance(change, SetVote):
                self.election.saved(change.octets)

    def doubted(self, now: Instant) -> list[AllocatorEffect]:
        """A peer refuses us as a clone: if that is true, we are never to go on alone."""
        self.returning.doubt()
        return self._armed([], now)

    def cloned(self, now: Instant, *, still: bool = True) -> list[AllocatorEffect]:
        """Another host has our identity and lives: whose our space is, nobody can tell."""
        self.fence = "cloned-identity" if still else None
        effects: list[AllocatorEffect] = []
        self._serve(effects, now)
        return self._armed(effects, now)

    # ---- the mesh

    def peers(self, reachable: dict[PeerName, str], now: Instant) -> list[AllocatorEffect]:
        """Who can be reached now, with nicknames."""
        self._reachable = dict(reachable)
        self.leaving.leavers.intersection_update(reachable)
        effects = self.returning.peers(self._reachable, now)
        self._sure(effects, now)
        asking = self._donors.asking
        if asking is not None and asking.donor not in reachable:
            effects += self._donors.go_on(self._reachable, now, needed=self._pending.needs_space)
        self._seek(effects, now)
        return self._armed(effects, now)

    def receive(self, src: PeerName, data: bytes, now: Instant) -> list[AllocatorEffect]:
        """A unicast of another allocator. Raises MalformedMessageError."""
        message = decode(data)
        effects: list[AllocatorEffect] = []
        match message.kind:
            case MessageKind.REQUEST:
                self.leaving.leavers.discard(src)
                if self._why_not_here() is None:
                    effects += self._donor.donate(src, message.number, now)
                    self.estate.note()
                else:
                    effects += self._donor.deny(src, message.number)
            case MessageKind.DONATE:
                self._take_in(src, message, effects, now)
                self._donor_answered(src, message, effects, now)
            case MessageKind.HANDOVER:
                self._take_in(src, message, effects, now)
                effects.append(self.leaving.inherit(src, message))
            case MessageKind.EXAMINE:
                told = Message(MessageKind.EXAMINED, message.number, report=self.report())
                effects.append(SendTo(src, told.encode()))
            case MessageKind.EXAMINED:
                effects += self._survey.answered(src, message)
            case MessageKind.VERIFY:
                effects.append(newer(self.ring, src, message))
            case MessageKind.NEWER:
                if self.returning.is_asked(src, message):
                    self.ring.is_asking = True
                self._take_in(src, message, effects, now)
                self.ring.is_asking = False
                effects += self.returning.answered(src, message, self._reachable, now)
                self._sure(effects, now)
                self._seek(effects, now)
            case MessageKind.WANT:
                if self._why_not_here() is None:
                    effects += self._donor.part_with(src, message, now)
                    self.estate.note()
            case MessageKind.DENIED | MessageKind.ACK:
                if message.kind is MessageKind.DENIED:
                    self._refused(src, message.number, effects)
                self._donor_answered(src, message, effects, now)
                effects += self.leaving.answered(
                    message.kind, src, message.number, self._reachable, now
                )
                self.estate.note()
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
        effects += [
            Answer(p.request, Refused(self._why_nothing_came(p)))
            for p in self._pending.expired(now)
        ]
        if self.returning.until is not None and now >= self.returning.until:
            effects += self.returning.go_on(self._reachable, now)
            self._sure(effects, now)
        if self.leaving.until is not None and now >= self.leaving.until:
            effects += self.leaving.go_on(self._reachable, now)
        if self._wants.until is not None and now >= self._wants.until:
            self._look_astray(effects, now)
        if self._survey.until is not None and now >= self._survey.until:
            effects += self._survey.go_on(self._reachable, now)
        if self._leaves:
            self._sure(effects, now)
        asking = self._donors.asking
        if asking is not None and now >= asking.until:
            effects += self._donors.go_on(self._reachable, now, needed=self._pending.needs_space)
        if self._voter.hurry_at is not None and now >= self._voter.hurry_at:
            self._elect(effects, now)
        if self._voter.propose_at is not None and now >= self._voter.propose_at:
            self._voter.propose_at = None
        self._serve(effects, now)
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
        *,
        force: bool = False,
    ) -> bool:
        """Answer a request if it can be; the key's own address always can."""
        held = self.estate.allocations.get(key)
        if held is not None:
            same = wanted is None or wanted == held
            effects.append(Answer(request, Allocated(held) if same else Refused("key-in-use")))
            return True
        reason = self._why_not_here()
        if reason == "verifying":
            return False
        if reason is not None:
            effects.append(Answer(request, Refused(reason)))
            return True
        address = self.estate.take(key, wanted, now, force=force)
        if address is None:
            return False
        if isinstance(address, str):
            effects.append(Answer(request, Refused(address)))
            return True
        effects += [Persist((SetAllocation(key, address),)), Answer(request, Allocated(address))]
        return True

    def _wait(self, pending: Pending, effects: list[AllocatorEffect], now: Instant) -> None:
        if len(self._pending) >= MAX_PENDING:
            effects.append(Answer(pending.request, Refused("too-many-requests")))
            return
        self._pending[pending.request] = pending
        self._seek(effects, now)
        self._serve(effects, now)

    @property
    def withheld(self) -> str | None:
        """Why nothing is given out here now, or None: cloned-identity, leaving, verifying."""
        return self._why_not_here()

    def _why_not_here(self) -> str | None:
        if self.fence is not None:
            return self.fence
        if self._leaves or self.leaving.is_active or self.leaving.has_left:
            return "leaving"
        return "verifying" if self.returning.is_waiting else None

    def _why_nothing_came(self, pending: Pending) -> str:
        if self.returning.is_waiting:
            return "verifying"
        if not self.ring.is_seeded:
            return "no-quorum"
        return "no-space" if pending.wanted is None else "owner-unreachable"

    def _serve(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Answer those that wait, in order, as far as there is space."""
        for pending in list(self._pending.values()):
            wanted, force = pending.wanted, pending.force
            if self._answer_now(pending.request, pending.key, wanted, effects, now, force=force):
                del self._pending[pending.request]
            elif pending.wanted is None:
                return

    def _sure(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Once what we remember is known to be true: those who waited for that."""
        if self.returning.is_waiting:
            return
        if self._leaves and not self.space.rests_whole(now):
            self._leaves = False
            effects += self.leaving.begin(self._reachable, now)
        if not self.returning.is_open:
            effects += self.estate.defend()
        self._serve(effects, now)
        self._look_astray(effects, now)

    # ---- space from others

    def _seek(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Somebody waits for an address that we do not have: elect, or ask."""
        if not self._pending or self.returning.is_waiting:
            return
        if not self.ring.is_seeded:
            effects += self._voter.propose(self._reachable, now)
            self._made(effects, now)
            return
        self._look_astray(effects, now)
        if self._pending.needs_space and self._donors.is_due(now):
            effects += self._donors.seek(self._reachable, self.leaving.leavers, now)

    def _donor_answered(
        self, src: PeerName, message: Message, effects: list[AllocatorEffect], now: Instant
    ) -> None:
        denied = message.kind is MessageKind.DENIED
        if self._donors.answered(src, message.number, now, denied=denied):
            self._serve(effects, now)
            effects += self._donors.go_on(self._reachable, now, needed=self._pending.needs_space)

    def _refused(self, src: PeerName, number: int, effects: list[AllocatorEffect]) -> None:
        """An owner keeps an address that was wanted."""
        address = self._wants.denied(src, number)
        if address is None:
            return
        denied = self._pending.denied(address)
        effects += [Answer(p.request, Refused("address-in-use")) for p in denied]
        if address in self.estate.still_astray():
            self.estate.astray.discard(address)
            effects.append(Notify(LostAddress(self.estate.holders[address], address)))

    def _look_astray(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Ask for the addresses that have to be ours, and are in another's space."""
        wanted = {
            a for a in self._pending.wanted() if not self.space.owns(a)
        } | self.estate.still_astray()
        if not self.returning.is_waiting:
            effects += self._wants.go_on(sorted(wanted), self._reachable, now)

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
            if not self.returning.is_open:
                effects += self.estate.join()  # a version that is ours to make, if it is still ours

    def _merged(self, now: Instant) -> list[AllocatorEffect]:
        """What merges brought to the ring: keep it, use what is ours, defend it."""
        changed = self.ring.take_changed()
        effects: list[AllocatorEffect] = []
        if changed:
            effects += [persisted(self.ring, changed, cluster=True)]
            self._voter.propose_at = None
        if (changed or self.ring.conflicts) and self.estate.note():
            self.estate.look_astray()
        if self.ring.is_outdated:
            self.ring.is_outdated = False
            if not self.returning.is_open:
                effects += self.returning.begin(self._reachable, now)
        if not self.returning.is_open:
            effects += self.estate.defend()
        effects += [
            SendTo(owner, Message(MessageKind.NEWER, 0, (self.ring.encoded(piece),)).encode())
            for owner, piece in self.ring.shortened.take_unheard()
            if owner in self._reachable
        ]
        self._look_astray(effects, now)
        self._serve(effects, now)
        self._seek(effects, now)
        return effects

    # ---- election

    def _elect(self, effects: list[AllocatorEffect], now: Instant) -> None:
        if not self.ring.is_seeded:
            effects += self._voter.vote(self._reachable, now)
            self._made(effects, now)

    def _made(self, effects: list[AllocatorEffect], now: Instant) -> None:
        """Make the ring, if it was our ballot that was decided."""
        value = self._voter.won
        if value is not None and not self.ring.is_seeded:
            changed = self.ring.seed(value.cluster, value.owners)
            effects += self._gained(changed, now, cluster=True)

    # ---- bookkeeping

    def report(self) -> Report:
        """What we say of our addresses to whoever asks."""
        return make_report(
            self.ring, self.space, self.estate.astray, self.leaks, self._why_not_here()
        )

    def _gained(
        self, changed: list[Slice], now: Instant, cluster: bool = False
    ) -> list[AllocatorEffect]:
        """Our own change of the ring that brought us space: those who wait have it at once."""
        effects = announced(self.ring, changed, cluster)
        self.estate.note()
        self._voter.propose_at = None
        self._serve(effects, now)
        self._seek(effects, now)
        return effects

    def _armed(self, effects: list[AllocatorEffect], now: Instant) -> list[AllocatorEffect]:
        waits = [self.leaving.until, self.returning.until, self._survey.until]
        waits.append(self._pending.first_until)
        if not self.ring.is_seeded:
            waits += [self._voter.propose_at, self._voter.hurry_at]
        if not self.returning.is_waiting:
            waits.append(self._wants.until)
            if self._pending.needs_space:
                waits += [self._donors.until, self.space.next_rested(now)]
            elif self._leaves:
                waits.append(self.space.next_rested(now))
        wishes = [at for at in waits if at is not None]
        # Nobody is woken for what waits for something else, a message or a dispute's end. Should
        # anything be overdue all the same: soon, not for ever at this instant.
        soonest = max(min(wishes), Instant(now + LOOK_AGAIN)) if wishes else None
        effects.append(Arm(soonest))
        return effects
