"""A whole mesh of real cores under simulated time, and an observer who knows everything.

``SimMesh`` joins hosts, troubles them, heals the underlay, and asserts what must then be true. The
ledger watches every address at every moment, not only at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    DropAllocation,
    Persist,
    Publish,
    Refused,
    SendTo,
    SetAllocation,
    SetCluster,
    SetSlice,
    SetVote,
    Stored,
)
from ipam.election import CHANNEL as ELECTION
from ipam.ring import CHANNEL as RING
from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.effects import Arm
from mesh.errors import MalformedMessageError
from mesh.names import PeerName
from mesh.router.events import (
    ChannelChanged,
    PeersChanged,
    Quarantined,
    RouterEvent,
    UnicastReceived,
)
from mesh.wire.cipher import Offer
from tests.sim.clock import SimClock, _Entry
from tests.sim.host import PORT, SimHost, ring
from tests.sim.network import SimNetwork, Weather
from tests.sim.processors import PROCESSORS, cipher_complaint

RANGE = AddressRange.parse("10.32.0.0/27")
"""Two addresses a peer: most must be asked for."""


@dataclass
class MemoryStore:
    """What survives a kill: the twin of ``ipam.drivers.store``."""

    cluster: bytes | None = None
    vote: bytes | None = None
    slices: dict[Address, bytes] = field(default_factory=dict)
    allocations: dict[AllocationKey, Address] = field(default_factory=dict)

    def apply(self, effect: Persist) -> None:
        for change in effect.changes:
            match change:
                case SetCluster(cluster):
                    self.cluster = cluster
                case SetVote(octets):
                    self.vote = octets
                case SetSlice(start, octets):
                    self.slices[start] = octets
                case SetAllocation(key, address):
                    assert address not in self.allocations.values(), "address stored twice"
                    self.allocations[key] = address
                case DropAllocation(key):
                    self.allocations.pop(key, None)

    def stored(self) -> Stored:
        slices = tuple(octets for _, octets in sorted(self.slices.items()))
        return Stored(self.cluster, self.vote, slices, dict(self.allocations))


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

    def allocate(self, key: AllocationKey) -> None:
        self._number += 1
        self._requests[self._number] = key
        self.perform(self.core.allocate(self._number, key, self.host.clock.now()))

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
                case Answer(request, result):
                    self._answered(request, result)
                case SendTo(peer, message):
                    host.perform(host.router.unicast(peer, RING, message, host.clock.now()))
                case Publish(channel, keys):
                    host.perform(host.router.publish(channel, keys, host.clock.now()))
                case Arm(deadline):
                    self._arm(deadline)
                case _:
                    continue

    def stop(self) -> None:
        self._arm(None)

    def _answered(self, request: int, result: Allocated | Refused) -> None:
        key = self._requests.pop(request, None)
        if key is None:
            return
        if isinstance(result, Refused):
            self.refused.append(result.reason)
        elif result.address is not None:
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


class SimMesh:
    """``peers`` hosts on one underlay; chance, and so everything, comes from ``seed``."""

    def __init__(
        self,
        seed: int,
        peers: int = 12,
        weather: Weather | None = None,
        passwords: tuple[str, ...] = ("secret",),
        processors: tuple[Offer, ...] = PROCESSORS,
    ) -> None:
        self.seed, self.rng = seed, Random(seed)
        self.clock = SimClock()
        self.weather = weather or Weather(loss=0.02, duplicate=0.02, delay=(0.0005, 0.02))
        self.network = SimNetwork(self.clock, seed, self.weather)
        self.ledger = Ledger()
        self.operations = 0
        self.stores = [MemoryStore() for _ in range(peers)]
        self.hosts = [
            SimHost(
                f"10.0.{n // 250}.{n % 250 + 1}",
                n,
                self.clock,
                self.network,
                Random(self.rng.getrandbits(64)),
                ring(*passwords),
                self._event,
                ciphers=processors[n % len(processors)],
            )
            for n in range(peers)
        ]
        self.ipams: dict[str, SimIpam] = {}
        self._keys = 0
        self._electors = peers
        self.encrypted = bool(passwords)

    # ---- life

    def join(self, *, fences: int = 0) -> None:
        """Start everybody; each is told of one earlier host. ``fences`` pairs never meet."""
        for n, host in enumerate(self.hosts):
            if n:
                other = self.hosts[self.rng.randrange(n)]
                host.targets = (Target(other.address, PORT),)
        told = {frozenset({h.address, t.host}) for h in self.hosts for t in h.targets}
        for _ in range(fences):
            a, b = self.rng.sample(self.hosts, 2)
            if frozenset({a.address, b.address}) not in told:
                self.network.fence(a.address, b.address)
        first, last = self.hosts[0], self.hosts[-1]
        for host in self.hosts:
            self.start(host)
            if host in (first, last):
                self.allocate(host)  # before anybody is connected: nobody may decide alone
            self.run(self.rng.uniform(0, 0.2))

    def start(self, host: SimHost) -> None:
        host.prepare()
        self.ipams[host.address] = SimIpam(
            host, self.stores[host.number], self.ledger, self._electors
        )
        host.start()
        self.operations += 1

    def kill(self, host: SimHost) -> None:
        self.ipams[host.address].stop()
        host.kill()
        self.operations += 1

    def run(self, seconds: float) -> None:
        self.clock.run_until(Instant(self.clock.now() + seconds))

    def _event(self, host: SimHost, event: RouterEvent) -> None:
        self.ipams[host.address].event(event)

    @property
    def alive(self) -> list[SimHost]:
        return [host for host in self.hosts if host.alive]

    # ---- trouble

    def churn(self, steps: int) -> None:
        """Random operations, a moment apart."""
        for _ in range(steps):
            self.operations += 1
            self._trouble()
            self.run(self.rng.uniform(0.05, 1.0))

    def _trouble(self) -> None:
        rng, alive = self.rng, self.alive
        host = rng.choice(alive)
        other = rng.choice([h for h in self.hosts if h is not host])
        match rng.randrange(12):
            case 0 | 1 | 2 | 3:
                self.allocate(host)
            case 4:
                keys = sorted(self.ipams[host.address].core.allocations)
                if keys:
                    self.ipams[host.address].free(rng.choice(keys))
            case 5:
                self.network.cut(host.address, other.address)
            case 6:
                self.network.cut(host.address, other.address, one_way=True)
            case 7:
                self.network.heal()
            case 8:
                if len(alive) > len(self.hosts) * 2 // 3:
                    self.kill(host)
            case 9:
                for dead in self.hosts:
                    if not dead.alive:
                        self.start(dead)
                        break
            case 10:
                host.kill_worker()
            case _:
                order = host.router.connect if rng.random() < 0.5 else host.router.forget
                host.perform(order((Target(other.address, PORT),), self.clock.now()))

    def allocate(self, host: SimHost) -> None:
        self._keys += 1
        self.ipams[host.address].allocate(AllocationKey(f"c{self._keys}", "eth0"))

    def heal(self) -> None:
        """The underlay is whole, everybody runs, everybody is told of somebody again."""
        self.network.heal()
        for host in self.hosts:
            if not host.alive:
                self.start(host)
        for n, host in enumerate(self.hosts[1:]):
            target = Target(self.hosts[n].address, PORT)
            if self.network.passes(host.address, target.host):
                host.perform(host.router.connect((target,), self.clock.now()))

    def settle(self, within: float = 120.0, step: float = 2.0) -> None:
        """Run until everything that must be true is; the last complaint when it is not in time."""
        deadline = self.clock.now() + within
        while True:
            self.run(step)
            complaint = self.complaint()
            if complaint is None:
                return
            assert self.clock.now() < deadline, f"seed {self.seed}: {complaint}"

    # ---- truth

    def complaint(self) -> str | None:
        """What is not as it must be after healing, or None."""
        hosts = self.alive
        names = {host.name for host in hosts}
        views = [host.router.topology.digest() for host in hosts]
        for host, view in zip(hosts, views, strict=True):
            if view != views[0]:
                return f"{host.address} sees another topology than {hosts[0].address}"
            if host.router.reachable != names - {host.name}:
                missing = len(names) - 1 - len(host.router.reachable)
                return f"{host.address} does not reach {missing} peers"
        short_ids = [host.router.topology.own.short_id for host in hosts]
        if len(set(short_ids)) != len(hosts):
            return f"short IDs are not distinct: {short_ids}"
        ciphers = cipher_complaint(hosts) if self.encrypted else None
        return self._ring_complaint(hosts) or ciphers or self._frames_complaint(hosts)

    def _ring_complaint(self, hosts: list[SimHost]) -> str | None:
        rings = [self.ipams[host.address].core.ring for host in hosts]
        for host, held in zip(hosts, rings, strict=True):
            if held.digest() != rings[0].digest():
                return f"{host.address} has another ring than {hosts[0].address}"
        if rings[0].gaps():
            return f"the ring has gaps: {rings[0].gaps()}"
        return None

    def _frames_complaint(self, hosts: list[SimHost]) -> str | None:
        """Send a frame between all pairs, and a broadcast from everybody, and look who got what."""
        before = self.network.weather
        self.network.weather = Weather(delay=before.delay)
        for host in hosts:
            host.received.clear()
        for host in hosts:
            ids = {h.name: h.router.topology.own.short_id for h in hosts}
            for other in hosts:
                short_id = ids[other.name]
                if other is not host and short_id is not None:
                    host.worker.unicast(short_id, b"to " + other.name.octets)
            host.worker.broadcast(b"all " + host.name.octets)
        self.run(1.0)
        self.network.weather = before
        for host in hosts:
            others = [h.name for h in hosts if h is not host]
            direct = [src for src, frame in host.received if frame == b"to " + host.name.octets]
            if sorted(direct) != sorted(others):
                missing = [h.address for h in hosts if h.name in set(others) - set(direct)]
                return f"no frame reaches {host.address} from {missing}"
            heard = [src for src, frame in host.received if frame == b"all " + src.octets]
            if sorted(heard) != sorted(others):
                return f"{host.address} heard broadcasts {_times(heard, others)}"
        return None

    def assert_addresses(self) -> None:
        """Every address that somebody was given is where its ring says, and nowhere else."""
        seen: dict[Address, str] = {}
        for host in self.alive:
            core = self.ipams[host.address].core
            for key, address in core.allocations.items():
                assert address not in seen, f"{RANGE.text(address)} twice: {seen[address]}, {key}"
                seen[address] = host.address
                owner = core.ring.owner_of(address)
                assert owner == host.name, f"{RANGE.text(address)} is {owner}'s by the ring"
                assert self.stores[host.number].allocations.get(key) == address

    def digest(self) -> str:
        """A fingerprint of everything that was said on the underlay, in order."""
        return self.network.transcript.hexdigest()


def _times(heard: list[PeerName], others: list[PeerName]) -> str:
    counts = [heard.count(name) for name in others]
    return f"{counts} times instead of once each"


def story(seed: int, peers: int = 12, steps: int = 40) -> SimMesh:
    """The run that ``make sim`` repeats for every seed: join, settle, trouble, heal, settle."""
    mesh = SimMesh(seed, peers)
    mesh.join(fences=peers // 3)
    mesh.run(8.0)
    mesh.churn(steps)
    mesh.heal()
    mesh.allocate(mesh.hosts[-1])
    mesh.settle()
    mesh.assert_addresses()
    assert mesh.ledger.answers > 0, "nobody was ever given an address"
    return mesh
