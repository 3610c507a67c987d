"""Stories of data paths: what the underlay does to datagrams, and what the mesh makes of it.

``PathMesh`` is a mesh of real routers without addresses or pods, whose observer knows the length,
the width and the health of every road. ``story(seed)``: join, stand steady weather, then trouble
after trouble, each with its bound, each healed, each time back to the best paths.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, pairwise
from random import Random

from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.link.pathmtu import LADDER, STEP
from mesh.router.choices import Choice, Path
from mesh.router.links import TRAFFIC_INTERVAL
from mesh.topology.routes import HOP_TOLL_US
from tests.sim.clock import SimClock
from tests.sim.host import PORT, SLEEVE_PORT, SimHost, ring
from tests.sim.network import SimNetwork, Weather
from tests.sim.worker import IP_UDP

MTUS = (1280, 1400, 1420, 1500, 1500, 1500, 4000, 9000)
FALL_BACK, RETURN, SHRINK, GROWTH = 3.0, 60.0, 3.0, 60.0
"""Seconds: the bounds of docs/protocol.md 8.6 and 10.6."""

GOSSIP = 1.0
"""Seconds until a relay's segment has become its neighbours' routes."""

GIVEN_UP = ("probes-unanswered", "no-connection")
"""Why a direct path is left; the last where the connection was gone before it."""

MEASURED = 32.0
"""Seconds after which what is measured is of the present weather: round trips of a mean (8.5)."""

STEP_TIME = 0.25
LOSSY_WITHIN = 150.0
"""Seconds in which a path that loses most of its datagrams must be left."""


class PathMesh:
    """Everybody is connected to everybody, and everybody sends to everybody while ``busy``."""

    def __init__(self, seed: int, peers: int = 4) -> None:
        self.seed, self.rng = seed, Random(seed)
        self.clock = SimClock()
        self.network = SimNetwork(self.clock, seed, Weather(loss=0.01, duplicate=0.01, mtu=1 << 16))
        self.busy = False
        self.streams = count()
        self.troubles: list[str] = []
        self.hosts = [
            SimHost(
                f"10.0.0.{n + 1}",
                n,
                self.clock,
                self.network,
                Random(self.rng.getrandbits(64)),
                ring("secret"),
            )
            for n in range(peers)
        ]
        self.by_name = {host.name: host for host in self.hosts}
        self.length: dict[frozenset[str], float] = {}
        """Seconds that a datagram is under way, one way, on the average."""

    def __str__(self) -> str:
        return f"seed {self.seed}, {', '.join(self.troubles)}"

    # ---- life

    def join(self) -> None:
        for n, host in enumerate(self.hosts):
            for other in self.hosts[:n]:
                self.lay(host, other, self.rng.uniform(0.001, 0.008))
                for src, dst in ((host, other), (other, host)):
                    self.widen(src, dst, self.rng.choice(MTUS))
            host.targets = tuple(Target(other.address, PORT) for other in self.hosts[:n])
            host.prepare()
            host.start()
        self._chatter()
        self.until(self.complaint, 40.0)

    def lay(self, a: SimHost, b: SimHost, seconds: float, jitter: float = 0.2) -> None:
        """The road between two is so long, give or take a share."""
        self.length[frozenset((a.address, b.address))] = seconds
        for src, dst in ((a, b), (b, a)):
            road = self.network.road(src.address, dst.address)
            road.delay = (seconds * (1 - jitter), seconds * (1 + jitter))

    def widen(self, src: SimHost, dst: SimHost, mtu: int) -> None:
        self.network.road(src.address, dst.address).mtu = mtu

    def run(self, seconds: float) -> None:
        self.clock.run_until(Instant(self.clock.now() + seconds))

    def until(self, complaint: Callable[[], str | None], within: float) -> float:
        """Seconds until there is no complaint; fails with the last one."""
        began = self.clock.now()
        while True:
            found = complaint()
            took = self.clock.now() - began
            assert took <= within + STEP_TIME, f"{self} after {took:.1f} s: {found}"
            if found is None:
                return took
            self.run(STEP_TIME)

    def _chatter(self) -> None:
        if self.busy:
            for host in self.hosts:
                self.send(host, self.hosts)
        when = Instant(self.clock.now() + TRAFFIC_INTERVAL / 2)
        self.clock.call_at(when, self._chatter)

    def send(self, src: SimHost, to: list[SimHost]) -> None:
        """A frame as large as the path is said to carry, to each of these."""
        for other in to:
            short_id = other.router.topology.own.short_id
            if other is not src and short_id is not None:
                src.worker.fill(short_id, b"to " + other.name.octets)

    # ---- truth

    def fits(self, src: SimHost, dst: SimHost) -> int:
        """Octets of UDP payload that the road carries."""
        return self.network.road(src.address, dst.address).mtu - IP_UDP

    def path(self, src: SimHost, dst: SimHost) -> list[SimHost]:
        """The hosts that frames pass, by what each of them would do."""
        passed = [src]
        while passed[-1] is not dst:
            choice = self.choice(passed[-1], dst)
            if choice is None or choice.next_hop is None or len(passed) > len(self.hosts):
                return []
            passed.append(self.by_name[choice.next_hop])
        return passed

    def choice(self, src: SimHost, dst: SimHost) -> Choice | None:
        return src.router.links.choices.current(dst.name)

    def segment(self, src: SimHost, dst: SimHost) -> int:
        """What a frame's source believes the whole path carries."""
        rows = src.router.status(self.clock.now()).links
        return next((row.segment for row in rows if row.peer == str(dst.name)), 0)

    def pairs(self) -> list[tuple[SimHost, SimHost]]:
        return [(a, b) for a in self.hosts for b in self.hosts if a is not b]

    def round_trip(self, a: SimHost, b: SimHost) -> float:
        return 2 * self.length[frozenset((a.address, b.address))] + HOP_TOLL_US / 1e6

    def complaint(self) -> str | None:
        """Who is not on the best path, or not with its right segment."""
        for a, b in self.pairs():
            found = self._misled(a, b) or self._misfit(a, b)
            if found is not None:
                return f"{a.address} to {b.address}: {found}"
        return None

    def _misled(self, a: SimHost, b: SimHost) -> str | None:
        path = self.path(a, b)
        if not path:
            return "no path"
        best = self.best_is_direct(a, b)
        if best is True and len(path) != 2:
            return f"goes round by {[h.address for h in path]}, the direct path is best"
        if best is False and len(path) == 2:
            return f"goes straight, {self.round_trip(a, b):.3f} s, which is much longer"
        return None

    def best_is_direct(self, a: SimHost, b: SimHost) -> bool | None:
        """None where what was measured may well decide otherwise than what is so."""
        direct = self.round_trip(a, b)
        others = [h for h in self.hosts if h is not a and h is not b]
        ways = [self.round_trip(a, h) + self.round_trip(h, b) for h in others]
        relayed = min(ways, default=float("inf"))
        if direct <= relayed:
            return True
        return False if direct > 2.5 * relayed + 0.01 else None

    def _misfit(self, a: SimHost, b: SimHost) -> str | None:
        path = self.path(a, b)
        true = min(min(self.fits(src, dst), LADDER[-1]) for src, dst in pairwise(path))
        believed = self.segment(a, b)
        if true - STEP <= believed <= true:
            return None
        return f"segment {believed}, the path carries {true}"

    def oversized(self) -> str | None:
        """Who believes that its path carries more than it does."""
        for a, b in self.pairs():
            path = self.path(a, b)
            true = min((self.fits(s, d) for s, d in pairwise(path)), default=0)
            if self.segment(a, b) > true:
                return f"{a.address} to {b.address} sends {self.segment(a, b)}, {true} pass"
        return None

    def assert_frames_pass(self) -> None:
        """Frames of full size between everybody, in fair weather."""
        weather, self.network.weather = self.network.weather, Weather(mtu=1 << 16)
        for host in self.hosts:
            host.received.clear()
        for host in self.hosts:
            self.send(host, self.hosts)
        self.run(1.0)
        self.network.weather = weather
        for a, b in self.pairs():
            frames = [f for src, f in b.received if src == a.name]
            assert any(f.startswith(b"to " + b.name.octets) for f in frames), (
                f"{self}: no frame of {a.address} reaches {b.address}"
            )

    def changes(self, a: SimHost, b: SimHost, since: float) -> list[Choice]:
        made = a.router.links.choices.made(b.name)
        return [choice for choice in made if choice.at > since]


# ---- troubles: each asserts its own bound, and is healed by ``story``


def blocked(mesh: PathMesh, a: SimHost, b: SimHost, *, one_way: bool) -> None:
    """The data port is blocked; connections and liveness probes pass."""
    began = mesh.clock.now()
    for src, dst in ((a, b), (b, a))[: 1 if one_way else 2]:
        mesh.network.road(src.address, dst.address).blocked.add(SLEEVE_PORT)
    before = {pair: mesh.choice(*pair) for pair in ((a, b), (b, a))}
    mesh.run(FALL_BACK)
    for src, dst in ((a, b), (b, a)):
        choice = mesh.choice(src, dst)
        assert choice is not None
        assert choice.path is Path.RELAYED, f"{mesh}: {choice} after {FALL_BACK} s"
        was = before[src, dst]
        if was is not None and was.path is Path.DIRECT:
            assert choice.at <= began + FALL_BACK
            undecided = ("cheaper-path",) if mesh.best_is_direct(src, dst) is None else ()
            assert choice.reason in GIVEN_UP + undecided, f"{mesh}: {choice}"
            if choice.after is not None:
                assert choice.after <= FALL_BACK
    mesh.assert_frames_pass()
    mesh.run(mesh.rng.uniform(0, 10))


def blocked_one_way(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    blocked(mesh, a, b, one_way=True)


def blocked_both_ways(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    blocked(mesh, a, b, one_way=False)


def narrower(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """One direction carries less, and nobody says so: smaller segments, the same paths."""
    before = mesh.clock.now()
    least = min(mesh.fits(src, dst) for src, dst in mesh.pairs())
    mesh.widen(a, b, mesh.rng.choice([m for m in (700, *MTUS) if m <= least + IP_UDP]))
    mesh.until(mesh.oversized, SHRINK + GOSSIP)
    mesh.assert_frames_pass()
    assert not mesh.changes(a, b, before)


def wider(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    mesh.widen(a, b, mesh.rng.choice(MTUS[-3:]))
    mesh.until(mesh.complaint, GROWTH + GOSSIP)


def small_device(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """Our own device shrinks: the kernel says so, and nobody has to find out."""
    mtu = mesh.rng.choice((1280, 1300))
    for host in mesh.hosts:
        if host is not a:
            mesh.widen(a, host, min(mesh.fits(a, host) + IP_UDP, mtu))
    a.device_mtu = a.worker.device_mtu = mtu
    mesh.until(mesh.oversized, 1.0 + GOSSIP)
    mesh.assert_frames_pass()
    a.device_mtu = a.worker.device_mtu = 1 << 16


def lossy(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """Most datagrams are lost one way: frames go round, and stay there."""
    road = mesh.network.road(a.address, b.address)
    road.loss = 0.7

    def straight() -> str | None:
        paths = [mesh.path(src, dst) for src, dst in ((a, b), (b, a))]
        return None if all(len(path) > 2 for path in paths) else "still straight"

    mesh.until(straight, LOSSY_WITHIN)
    settled = mesh.clock.now()
    mesh.run(60)
    for src, dst in ((a, b), (b, a)):
        back = [c for c in mesh.changes(src, dst, settled) if c.path is Path.DIRECT]
        assert not back, f"{mesh}: {back}"
    road.loss = 0.0


def farther(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """The direct road becomes very long: another way is clearly better."""
    key = frozenset((a.address, b.address))
    before = mesh.length[key]
    mesh.lay(a, b, 0.2)
    mesh.until(mesh.complaint, RETURN)
    mesh.lay(a, b, before)


def torn(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """Connections between two die, datagrams pass: frames go the way they went."""
    before, paths = mesh.clock.now(), (mesh.path(a, b), mesh.path(b, a))
    mesh.network.tear(a.address, b.address)
    mesh.run(20)
    assert b.name not in a.router.neighbours.by_peer
    if mesh.best_is_direct(a, b) is not None:
        assert (mesh.path(a, b), mesh.path(b, a)) == paths
        assert not mesh.changes(a, b, before)
        assert not mesh.changes(b, a, before)
    mesh.assert_frames_pass()


def worker_died(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """New keys and new probes: what was known of the paths before counts for nothing."""
    mesh.rng.choice((a, b)).kill_worker()
    mesh.run(1.0)


TROUBLES = (
    blocked_one_way,
    blocked_both_ways,
    narrower,
    wider,
    small_device,
    lossy,
    farther,
    torn,
    worker_died,
)


def steady(mesh: PathMesh, seconds: float) -> None:
    """Jitter and loss that do not change: at most one change of path for each pair."""
    weather = mesh.network.weather
    for a, b in mesh.pairs():
        if a.number < b.number:
            mesh.lay(a, b, mesh.length[frozenset((a.address, b.address))], jitter=0.8)
    mesh.network.weather = Weather(loss=mesh.rng.uniform(0.01, 0.06), mtu=1 << 16)
    mesh.run(MEASURED)
    began = mesh.clock.now()
    mesh.run(seconds)
    mesh.network.weather = weather
    for a, b in mesh.pairs():
        made = mesh.changes(a, b, began)
        assert len(made) <= 1, f"{mesh}: {a.address} to {b.address} swings: {made}"


def story(seed: int, peers: int = 4, troubles: int = 3) -> PathMesh:
    """Join, steady weather, troubles one after another; back on the best paths after each."""
    mesh = PathMesh(seed, peers)
    mesh.join()
    mesh.assert_frames_pass()
    steady(mesh, 600.0 if seed % 10 == 0 else 60.0)
    mesh.busy = True
    mesh.run(3.0)
    for _ in range(troubles):
        a, b = mesh.rng.sample(mesh.hosts, 2)
        trouble = mesh.rng.choice(TROUBLES)
        mesh.troubles.append(f"{mesh.clock.now():.1f} {trouble.__name__} {a.address} {b.address}")
        trouble(mesh, a, b)
        mesh.network.heal()
        mesh.until(mesh.complaint, RETURN + GOSSIP)
        mesh.assert_frames_pass()
        mesh.busy = mesh.rng.random() < 0.8
        mesh.run(mesh.rng.uniform(0, 5))
        mesh.busy = True
        mesh.run(3.0)
    return mesh
