"""The addresses of simulated hosts: the allocator, its store, and a ledger of every answer."""

from __future__ import annotations

from collections.abc import Callable

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    LostAddress,
    Persist,
    Publish,
    Refused,
    SendTo,
    Surveyed,
)
from ipam.election import CHANNEL as ELECTION
from ipam.ring import CHANNEL as RING
from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.names import PeerName
from mesh.router.events import (
    ChannelChanged,
    PeersChanged,
    Quarantined,
    RouterEvent,
    UnicastReceived,
)
from tests.sim.clock import _Entry
from tests.sim.host import SimHost
from tests.store_twin import MemoryStore

RANGE = AddressRange.parse("10.32.0.0/27")
"""Two addresses a peer: most must be asked for."""


class Ledger:
    """Who holds which address, as far as anybody was ever answered."""

    def __init__(self) -> None:
        self.holders: dict[Address, tuple[str, AllocationKey]] = {}
        self.answers = 0

    def answered(self, host: str, key: AllocationKey, address: Address) -> None:
        self.answers += 1
        held = self.holders.get(address)
        assert held in (None, (host, key)), f"{RANGE.text(address)} given twice: {held}, {key}"
        self.holders[address] = (host, key)

    def freed(self, address: Address) -> None:
        self.holders.pop(address, None)


class SimIpam:
    """The allocator of one host, wired to its router as the daemon wires it."""

    def __init__(self, host: SimHost, store: MemoryStore, ledger: Ledger, electors: int) -> None:
        self.host, self.store, self.ledger = host, store, ledger
        self._requests: dict[int, AllocationKey] = {}
        self._number = 0
        self._timer: _Entry | None = None
        self.refused: list[str] = []
        self.on_answer: Callable[[AllocationKey, str], None] = lambda _key, _answer: None
        self.core = Allocator(
            host.identity,
            RANGE,
            host.rng,
            entropy_id=host.rng.randbytes(16),
            electors=electors,
            stored=store.stored(),
            rest=5.0,
        )
        host.router.register(self.core.ring)
        host.router.register(self.core.election)

    def begin(self) -> None:
        """The host has started."""
        self.perform(self.core.start(self.host.clock.now()))

    def allocate(self, key: AllocationKey) -> None:
        self._number += 1
        self._requests[self._number] = key
        self.perform(self.core.allocate(self._number, key, self.host.clock.now()))

    def reclaim(self, peer: PeerName) -> None:
        self._number += 1
        self._requests[self._number] = AllocationKey("reclaim", "")
        self.perform(self.core.reclaim(self._number, peer, self.host.clock.now()))

    def free(self, key: AllocationKey) -> None:
        address = self.core.allocations.get(key)
        self._number += 1
        self.perform(self.core.free(self._number, key, self.host.clock.now()))
        if address is not None:
            self.ledger.freed(address)

    def event(self, event: RouterEvent) -> None:
        now = self.host.clock.now()
        match event:
            case UnicastReceived(src, channel, payload) if channel == RING:
                try:
                    self.perform(self.core.receive(src, payload, now))
                except MalformedMessageError:
                    self.refused.append("malformed")
            case ChannelChanged(channel, _) if channel in (RING, ELECTION):
                self.perform(self.core.channel_changed(channel, now))
            case Quarantined(channel=channel) if channel in (RING, ELECTION):
                self.perform(self.core.channel_changed(channel, now))
            case PeersChanged(reachable):
                self.perform(self.core.peers(dict.fromkeys(reachable, ""), now))
            case _:
                return

    def perform(self, effects: list[AllocatorEffect]) -> None:
        host = self.host
        for effect in effects:
            if not host.alive:
                return
            match effect:
                case Persist():
                    self.store.apply(effect)
                    self.core.saved(effect.changes)
                case Answer(request, result):
                    self._answered(request, result)
                case SendTo(peer, message):
                    host.perform(host.router.unicast(peer, RING, message, host.clock.now()))
                case Publish(channel, keys):
                    host.perform(host.router.publish(channel, keys, host.clock.now()))
                case Arm(deadline):
                    self._arm(deadline)
                case Notify(LostAddress(key, address)):
                    self.on_answer(key, f"lost {RANGE.text(address)}")
                case _:
                    continue

    def stop(self) -> None:
        self._arm(None)

    def _answered(self, request: int, result: Allocated | Refused | Surveyed) -> None:
        key = self._requests.pop(request, None)
        if key is None:
            return
        if isinstance(result, Refused):
            self.refused.append(result.reason)
            self.on_answer(key, result.reason)
        elif isinstance(result, Surveyed) or result.address is None:
            self.on_answer(key, "done")
        else:
            self.on_answer(key, RANGE.text(result.address))
            assert self.store.allocations.get(key) == result.address, "answered before durable"
            self.ledger.answered(self.host.address, key, result.address)

    def _arm(self, deadline: Instant | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            clock = self.host.clock
            self._timer = clock.call_at(max(deadline, clock.now()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self.host.alive:
            self.perform(self.core.handle_timer(self.host.clock.now()))
