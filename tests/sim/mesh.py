"""A whole mesh of real cores under simulated time, and an observer who knows everything.

``SimMesh`` joins hosts, troubles them, heals the underlay, and asserts what must then be true. The
ledger watches every address at every moment, not only at the end.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from ipam.address import Address
from ipam.effects import AllocationKey
from mesh.clock import Instant
from mesh.connection.maker import Target, TargetState
from mesh.names import PeerName
from mesh.router.events import RouterEvent
from mesh.wire.cipher import Offer
from tests.sim.addresses import RANGE, Ledger, SimIpam
from tests.sim.clock import SimClock
from tests.sim.host import PORT, SimHost, ring
from tests.sim.lies import anothers_slice, lie
from tests.sim.network import SimNetwork, Weather
from tests.sim.processors import PROCESSORS, cipher_complaint
from tests.store_twin import MemoryStore

TROUBLES = (
    *["allocate"] * 8,
    *["free", "cut", "cut-one-way", "part", "kill", "start", "worker"] * 2,
    *["heal", "lie"] * 4,
    "connect",
    "forget",
)
"""What may happen, as often as it is named."""


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
        self.troubles: Counter[str] = Counter()
        self.lies: list[str] = []
        self._restarted: set[str] = set()
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
        if host.address in self.ipams:
            self._restarted.add(host.address)
        host.prepare()
        self.ipams[host.address] = SimIpam(
            host, self.stores[host.number], self.ledger, self._electors
        )
        host.start()
        self.ipams[host.address].begin()
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
        what = rng.choice(TROUBLES)
        match what:
            case "allocate":
                self.allocate(host)
            case "free":
                keys = sorted(self.ipams[host.address].core.allocations)
                if keys:
                    self.ipams[host.address].free(rng.choice(keys))
            case "cut":
                self.network.cut(host.address, other.address)
            case "cut-one-way":
                self.network.cut(host.address, other.address, one_way=True)
            case "part":
                self._part()
            case "heal":
                self.network.heal()
            case "kill":
                if len(alive) <= len(self.hosts) * 2 // 3:
                    return
                self.kill(host)
            case "start":
                dead = next((host for host in self.hosts if not host.alive), None)
                if dead is None:
                    return
                self.start(dead)
            case "worker":
                host.kill_worker()
            case "lie":
                self.lies.append(lie(host, self.ipams[host.address].core.ring, rng))
            case "connect" | "forget":
                order = getattr(host.router, what)
                host.perform(order((Target(other.address, PORT),), self.clock.now()))
            case _:
                raise AssertionError(what)
        self.troubles[what] += 1

    def _part(self) -> None:
        """A partition: some reach each other and nobody else."""
        mixed = self.rng.sample([host.address for host in self.hosts], len(self.hosts))
        size = self.rng.randint(1, len(mixed) // 2)
        self.network.part(mixed[:size], mixed[size:])

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
        views = [_view(host) for host in hosts]
        for host, view in zip(hosts, views, strict=True):
            if view != views[0]:
                return f"{host.address} sees another topology than {hosts[0].address}"
            if host.router.reachable != names - {host.name}:
                missing = len(names) - 1 - len(host.router.reachable)
                return f"{host.address} does not reach {missing} peers"
        short_ids = [host.router.topology.own.short_id for host in hosts]
        if len(set(short_ids)) != len(hosts):
            return f"short IDs are not distinct: {short_ids}"
        return (
            self._books_complaint(hosts)
            or self._ring_complaint(hosts)
            or (cipher_complaint(hosts) if self.encrypted else None)
            or self._frames_complaint(hosts)
        )

    @staticmethod
    def _books_complaint(hosts: list[SimHost]) -> str | None:
        """What bounds accepting and dialling must count what there is, and nothing else."""
        for host in hosts:
            table = host.router.neighbours
            inbound = [s for s in table.streams.values() if s.target is None]
            half_open = sum(s.remote is None for s in inbound)
            if table.maker.half_open != half_open:
                return f"{host.address} counts {table.maker.half_open} half-open, not {half_open}"
            dialling = [r for r in table.maker.status() if r.state is TargetState.ATTEMPTING]
            if table.maker.active != len(table.by_peer) + len(dialling):
                return f"{host.address} counts {table.maker.active} connections and attempts"
        return None

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
            reused = [c for c in core.ring.conflicts.values() if c.reason == "version-reused"]
            assert reused == [], "an owner contradicted itself"
            for key, address in core.allocations.items():
                assert address not in seen, f"{RANGE.text(address)} twice: {seen[address]}, {key}"
                seen[address] = host.address
                if not self._is_lied_away(host, address):
                    owner = core.ring.owner_of(address)
                    assert owner == host.name, f"{RANGE.text(address)} is {owner}'s by the ring"
                assert self.stores[host.number].allocations.get(key) == address

    def _is_lied_away(self, host: SimHost, address: Address) -> bool:
        """What an insider says of space whose owner is down, that owner believes at its return: it
        could have given it away and forgotten (docs/ipam.md 7). Its containers are named then."""
        core = self.ipams[host.address].core
        told = anothers_slice.__name__ in self.lies and host.address in self._restarted
        nobody = core.ring.owner_of(address) not in {other.name for other in self.hosts}
        return told and nobody and address in core.estate.astray

    def digest(self) -> str:
        """A fingerprint of everything that was said on the underlay, in order."""
        return self.network.transcript.hexdigest()


def _view(host: SimHost) -> dict[bytes, bytes]:
    """The records that this host gossips, octet for octet."""
    topology = host.router.topology
    return {item.key: item.payload for item in topology.items(sorted(topology.digest()))}


def _times(heard: list[PeerName], others: list[PeerName]) -> str:
    counts = [heard.count(name) for name in others]
    return f"{counts} times instead of once each"


def weather_of(seed: int) -> Weather:
    """Every second seed has mild weather, the others worse: lossy, slow, or both."""
    return Weather(
        loss=(0.02, 0.1)[seed % 4 == 1],
        duplicate=(0.02, 0.1)[seed % 8 == 3],
        delay=(0.0005, (0.02, 0.2)[seed % 4 == 3]),
    )


def story(seed: int, peers: int = 12, steps: int = 10) -> SimMesh:
    """The run that ``make sim`` repeats for every seed: join, trouble, heal, settle."""
    mesh = SimMesh(seed, peers, weather_of(seed))
    mesh.join(fences=peers // 3)
    mesh.run(2.0)
    mesh.churn(steps)
    mesh.heal()
    mesh.allocate(mesh.hosts[-1])
    mesh.settle()
    mesh.assert_addresses()
    assert mesh.ledger.answers > 0, "nobody was ever given an address"
    return mesh
