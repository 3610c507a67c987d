"""One simulated peer: the shipped allocator and channels, on a disk and a clock that fail."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from ipam.address import Address
from ipam.allocator import Allocator
from ipam.batch import Batch
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Left,
    LostAddress,
    Publish,
    Refused,
    SendTo,
    Surveyed,
)
from ipam.election import CHANNEL as ELECTION
from ipam.ring import CHANNEL as RING
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError, OperatorError
from mesh.gossip.channel import Channel, Item
from mesh.names import PeerName
from tests.ipam.fakes import Disk, KilledError, identity

if TYPE_CHECKING:
    from tests.ipam.world import World

REST = 12.0
"""Seconds; three intervals of gossip, as in the daemon it is two."""
CHANNELS = (RING, ELECTION)


class Node:
    def __init__(
        self,
        world: World,
        number: int,
        seed: bytes,
        observer: bool,
        like: Node | None = None,
    ) -> None:
        self.world, self.number, self.observer = world, number, observer
        self.identity: Identity = identity(seed) if like is None else like.identity
        self.name: PeerName = self.identity.name
        self.disk: Disk = Disk() if like is None else like.disk.copy()
        self.core: Allocator | None = None
        self.batch: Batch | None = None
        self.gone = False
        """For good: the host is destroyed."""
        self.is_ghost = False
        """It was taken over and has not heard of it."""
        self.taken: dict[Address, int] = {}
        """What was taken over, and in which version."""
        self.astray: set[Address] = set()
        """Addresses of its containers in what was taken over."""
        self.is_clone = like is not None
        self.is_restored = False
        """Its memory is old, and it has not heard yet of what is newer."""
        self.life = 0
        self.deadline = 0
        self.armed: float | None = None
        self.rate, self.base = 1.0, world.rng.uniform(0.0, 1e6)
        self.requests: dict[int, tuple[str, AllocationKey]] = {}
        self.granted: dict[AllocationKey, Address] = {}
        """What its containers have, as they were answered."""
        self.reported: set[AllocationKey] = set()
        self.unsure: set[AllocationKey] = set()
        """Freed, or asked for in vain, and not answered: the runtime asks again until it is."""
        self.refusals: Counter[str] = Counter()
        self._number = 0
        self._due = False

    def __repr__(self) -> str:
        return f"p{self.number}"

    # ---- life

    @property
    def alive(self) -> bool:
        return self.core is not None

    def now(self) -> Instant:
        return Instant(self.base + self.world.time * self.rate)

    def start(self) -> None:
        world = self.world
        self.life += 1
        self.disk.kill_at = None
        self.core = core = Allocator(
            self.identity,
            world.range,
            Random(world.rng.getrandbits(64)),
            entropy_id=world.rng.randbytes(16),
            electors=world.electors,
            observer=self.observer,
            stored=self.disk.stored(),
            rest=REST,
            takeover_rest=REST,
        )
        self.batch = Batch(core)
        self.channels: dict[str, Channel] = {RING: core.ring, ELECTION: core.election}
        self.perform(core.start(self.now()))

    def kill(self) -> None:
        self.core = self.batch = self.armed = None
        self.life += 1
        self.unsure |= {key for what, key in self.requests.values() if what == "allocate"}
        self.unsure -= set(self.granted)
        self.requests.clear()

    # ---- orders

    def allocate(self, key: AllocationKey) -> None:
        if self.core is not None:
            number = self._ask("allocate", key)
            self.perform(self.core.allocate(number, key, self.now()))

    def claim(self, key: AllocationKey, address: Address) -> None:
        if self.core is not None:
            number = self._ask("allocate", key)
            self.perform(self.core.claim(number, key, address, self.now()))

    def free(self, key: AllocationKey) -> None:
        """The container is gone, whatever the daemon makes of it."""
        if self.core is None:
            return
        address = self.granted.pop(key, None)
        if address is not None:
            self.world.ledger.freed(self, key, address)
        self.unsure.add(key)
        self.perform(self.core.free(self._ask("free", key), key, self.now()))

    def reclaim(self, peer: PeerName, *, force: bool = False) -> None:
        if self.core is not None:
            number = self._ask("reclaim", AllocationKey("", ""))
            self.perform(self.core.reclaim(number, peer, self.now(), force=force, gaps=force))

    def doubt(self) -> None:
        if self.core is not None:
            self.perform(self.core.doubted(self.now()))

    def leave(self) -> None:
        if self.core is not None:
            self.perform(self.core.leave(self.now()))

    def stay(self) -> None:
        if self.core is not None:
            self.perform(self.core.stay(self.now()))

    def _ask(self, what: str, key: AllocationKey) -> int:
        self._number += 1
        self.requests[self._number] = (what, key)
        return self._number

    # ---- the mesh

    def see(self, reachable: dict[PeerName, str]) -> None:
        if self.core is not None:
            self.perform(self.core.peers(reachable, self.now()))

    def hear(self, src: PeerName, data: bytes) -> None:
        if self.core is None:
            return
        try:
            self.perform(self.core.receive(src, data, self.now()))
        except MalformedMessageError:
            self.refusals["malformed-message"] += 1

    def merge(self, channel: str, items: list[Item], source: Node) -> tuple[bytes, ...]:
        """News of gossip; what was new, and is to be relayed."""
        if self.core is None:
            return ()
        merged = self.channels[channel].merge(items, source.name, self.now())
        self.refusals.update(r.reason for r in merged.rejected)
        if merged.news or merged.rejected:
            self.perform(self.core.channel_changed(channel, self.now()))
        return merged.news

    # ---- the driver's part

    def perform(self, effects: list[AllocatorEffect]) -> None:
        """As the service does it: what this turn brought is written at its end, together."""
        assert self.batch is not None
        self.world.touched.add(self)
        self.world.inputs += 1
        self.batch.add(effects)
        if not self._due:
            self._due = True
            self.world.at_turn_s_end(self)

    def turn_ends(self) -> None:
        self._due = False
        batch = self.batch
        if batch is None:
            return
        self.world.touched.add(self)
        try:
            if batch.changes:
                self.disk.write(batch.changes)
        except OperatorError as err:
            effects = batch.failed(err.reason)
        except KilledError:
            self.world.killed(self)
            return
        else:
            effects = batch.written()
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: AllocatorEffect) -> None:
        match effect:
            case Arm(deadline):  # the commonest goes first
                self._arm(deadline)
            case Answer(request, result):
                self._answered(request, result)
            case SendTo(peer, message):
                self.world.send(self, peer, message)
            case Publish(channel, keys):
                self.world.publish(self, channel, keys)
            case Notify(LostAddress() as lost):
                self.reported.add(lost.key)
            case Notify(Left()):
                self.world.left(self)
            case _:
                return

    def _arm(self, deadline: Instant | None) -> None:
        when = None if deadline is None else (deadline - self.base) / self.rate
        if when is not None and when == self.armed:
            return
        self.armed = when
        self.deadline += 1
        if when is not None:
            self.world.arm(self, when)

    def fire(self) -> None:
        self.armed = None
        if self.core is not None:
            self.perform(self.core.handle_timer(self.now()))

    def _answered(self, request: int, result: Allocated | Refused | Surveyed) -> None:
        what, key = self.requests.pop(request, ("", AllocationKey("", "")))
        if isinstance(result, Refused):
            self.refusals[result.reason] += 1
            if what == "allocate" and result.reason.startswith("store-"):
                self.unsure.add(key)  # in memory it may have happened
        elif what == "free":
            self.unsure.discard(key)
        elif what == "allocate":
            assert isinstance(result, Allocated)
            assert result.address is not None
            assert self.disk.allocations.get(key) == result.address, "R20: answered, not durable"
            self.granted[key] = result.address
            self.world.ledger.answered(self, key, result.address)
