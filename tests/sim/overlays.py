"""Stories of two overlays on one mesh: who is served by which, and every frame at most once.

``OverlayMesh`` is a mesh of real routers whose hosts have a kernel's twin beside the sleeve's, or
not. Pods send numbered frames all the time, to everybody and to each other; the observer counts
how often each was heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from random import Random

from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.link.checksum import checksum
from mesh.link.overlay import Overlay
from mesh.router.choices import Choice
from mesh.topology.attachments import Pod
from tests.sim.clock import SimClock
from tests.sim.host import PORT, SimHost, ring
from tests.sim.kernel import VXLAN_PORT
from tests.sim.network import SimNetwork, Weather

FALL_BACK, RETURN = 3.0, 60.0
"""Seconds: the bounds of docs/protocol.md 14.5."""

GOSSIP = 1.0
"""Seconds until what two ends saw has become everybody's routes."""

EVERY = 0.05
"""Seconds between two frames of a pod."""

EVERYBODY = b"\xff" * 6
LISTENED = bytes.fromhex("01005e010203")
STEP_TIME = 0.1


@dataclass(frozen=True, slots=True)
class Kind:
    """What a host is made of."""

    fastdp: bool = True
    trusts: str = ""
    mtu: int = 1400


class OverlayMesh:
    """``links``: pairs of numbers that may connect; None: everybody. ``attached``: whether peers
    are told of each other's pods, as weaver does, or learn of them by their frames alone."""

    def __init__(
        self,
        seed: int,
        kinds: Iterable[Kind],
        *,
        links: Iterable[tuple[int, int]] | None = None,
        password: bool = False,
        attached: bool = True,
    ) -> None:
        self.attached = attached
        self.seed, self.rng = seed, Random(seed)
        self.clock = SimClock()
        weather = Weather(delay=(0.0005, 0.002), mtu=1 << 16)
        self.network = SimNetwork(self.clock, seed, weather)
        self.talking = False
        self.troubles: list[str] = []
        self.hosts = [
            SimHost(
                f"10.0.0.{n + 1}",
                n,
                self.clock,
                self.network,
                Random(self.rng.getrandbits(64)),
                ring("secret") if password else ring(),
                fastdp=kind.fastdp,
                trusted=(ip_network(kind.trusts),) if kind.trusts else (),
                mtu=kind.mtu,
            )
            for n, kind in enumerate(kinds)
        ]
        count = len(self.hosts)
        everybody = {(a, b) for b in range(count) for a in range(b)}
        self.links = everybody if links is None else {(min(x), max(x)) for x in links}
        for a, b in everybody - self.links:
            self.network.fence(self.hosts[a].address, self.hosts[b].address)
        self._number = 0
        self.sent: dict[bytes, tuple[float, int, int | None]] = {}
        """Frame -> when, from whom, to whom (None: everybody)."""

    def __str__(self) -> str:
        return f"seed {self.seed}, {', '.join(self.troubles)}"

    # ---- life

    def join(self) -> None:
        for n, host in enumerate(self.hosts):
            beside = [a for a, b in self.links if b == n]
            host.targets = tuple(Target(self.hosts[a].address, PORT) for a in sorted(beside))
            self.start(host)
        self._chatter()

    def start(self, host: SimHost) -> None:
        """Run a daemon, which knows the pod that it has."""
        host.prepare()
        host.start()
        if self.attached:
            pods = (Pod(mac(host.number)),)
            host.perform(host.router.attached(pods, self.clock.now()))

    def run(self, seconds: float) -> None:
        self.clock.run_until(Instant(self.clock.now() + seconds))

    def until(self, complaint: Callable[[], str | None], within: float) -> float:
        began = self.clock.now()
        while True:
            found, took = complaint(), self.clock.now() - began
            assert took <= within + STEP_TIME, f"{self} after {took:.1f} s: {found}"
            if found is None:
                return took
            self.run(STEP_TIME)

    def _chatter(self) -> None:
        if self.talking:
            src = self.rng.randrange(len(self.hosts))
            self.send(src, None)
            for dst in range(len(self.hosts)):
                if dst != src:
                    self.send(src, dst)
        self.clock.call_at(Instant(self.clock.now() + EVERY), self._chatter)

    def send(self, src: int, dst: int | None) -> bytes:
        """A numbered frame of a pod there, to a pod there or to everybody."""
        self._number += 1
        target = EVERYBODY if dst is None else mac(dst)
        frame = target + mac(src) + b"\x08\x00" + self._number.to_bytes(8, "big")
        self.sent[frame] = (self.clock.now(), src, dst)
        self.hosts[src].pod_sends(frame)
        return frame

    # ---- truth

    def heard(self) -> dict[tuple[bytes, int], int]:
        """How often each frame was given to pods, by host."""
        counts: Counter[tuple[bytes, int]] = Counter()
        for host in self.hosts:
            counts.update((frame, host.number) for frame in host.bridge if frame in self.sent)
        return counts

    def assert_at_most_once(self) -> None:
        """No broadcast twice, nothing comes home, no unicast twice at its pod."""
        for (frame, at), times in self.heard().items():
            _, src, dst = self.sent[frame]
            assert at != src, f"{self}: {src} hears itself"
            if dst is None or at == dst:
                assert times == 1, (
                    f"{self}: frame {frame[14:].hex()} of {src} {times} times at {at}"
                )

    def missed(
        self, since: float = 0.0, until: float = float("inf")
    ) -> list[tuple[float, int, int]]:
        """(when, from, to) of what was not heard by whom it was for."""
        counts, found = self.heard(), []
        for frame, (when, src, dst) in self.sent.items():
            if not since <= when < until:
                continue
            want = [n for n in range(len(self.hosts)) if n != src] if dst is None else [dst]
            found += [(when, src, n) for n in want if not counts.get((frame, n))]
        return found

    def assert_frames_pass(self) -> None:
        """Now, between everybody, of both kinds, exactly once."""
        self.run(0.01)  # what is under way was sent before
        began = self.clock.now()
        for src in range(len(self.hosts)):
            self.send(src, None)
        self.run(0.2)
        for src in range(len(self.hosts)):
            for dst in range(len(self.hosts)):
                if src != dst:
                    self.send(src, dst)
        self.run(0.2)
        assert not self.missed(began), f"{self}: {self.missed(began)}"
        self.assert_at_most_once()

    def forget_frames(self) -> None:
        self.run(0.1)
        self.sent.clear()
        for host in self.hosts:
            host.bridge.clear()

    def choice(self, a: int, b: int) -> Choice | None:
        """How frames go now, as it is shown; None to whom is not known."""
        router, peer = self.hosts[a].router, self.hosts[b].name
        records = router.topology.records
        return router.links.choice(peer, records, router.routes) if peer in records else None

    def overlays(self) -> dict[tuple[int, int], str]:
        """By what each pair is served; ``held`` is what nobody knows to work."""
        found = {}
        for a in range(len(self.hosts)):
            for b in range(len(self.hosts)):
                choice = self.choice(a, b)
                if a == b:
                    continue
                if choice is None or choice.path == "down":
                    found[a, b] = "nothing"
                else:
                    held = choice.reason == "held"
                    found[a, b] = "held" if held else choice.overlay.value
        return found

    def complaint(self, want: dict[tuple[int, int], Overlay]) -> str | None:
        """Which pairs are not on the overlay they should be on; the rest belong to the kernel."""
        for (a, b), found in self.overlays().items():
            wanted = want.get((min(a, b), max(a, b)), Overlay.FASTDP)
            if found != wanted:
                return f"{a} to {b} by {found}, not {wanted}: {self.choice(a, b)}"
        return None

    def worker_frames(self) -> int:
        """Frames of pods that the sleeve carried."""
        return sum(
            1
            for host in self.hosts
            for frame in self.sent
            if any(frame == got for _, got in host.received)
        )

    def mtus(self, a: int) -> dict[int, int]:
        """What this host's kernel was told that other hosts' pods take."""
        host = self.hosts[a]
        assert host.kernel is not None
        told = host.kernel.twin.tables().mtus
        numbers = {h.router.topology.own.short_id: h.number for h in self.hosts}
        return {numbers[short_id]: mtu for short_id, mtu in told.items()}

    def report(self, a: int, message: int, group: bytes = LISTENED) -> None:
        """A pod there joins (0x16) a group, or leaves (0x17) it, and says so (IGMPv2)."""
        said = bytes((message, 0)) + bytes(2) + b"\xef" + group[3:]
        said = said[:2] + checksum(said).to_bytes(2, "big") + said[4:]
        head = bytes((0x45, 0)) + (20 + len(said)).to_bytes(2, "big") + bytes(4) + b"\1\2\0\0"
        frame = group + mac(a) + b"\x08\0" + head + bytes((10, 32, 0, a)) + said[4:] + said
        self.hosts[a].pod_sends(frame)

    def group_frame(self, a: int, group: bytes = LISTENED) -> set[int]:
        """At which hosts the pods are given a frame to a group that a pod there sends."""
        self._number += 1
        frame = group + mac(a) + b"\x88\xb6" + self._number.to_bytes(8, "big")
        self.hosts[a].pod_sends(frame)
        self.run(0.2)
        heard = [host.number for host in self.hosts for got in host.bridge if got == frame]
        assert len(heard) == len(set(heard)), f"{self}: twice at one of {heard}"
        return set(heard)

    def too_big(self, a: int, b: int, size: int) -> list[bytes]:
        """What a pod there is told that sends a packet of so many octets, not to be cut."""
        head = bytes((0x45, 0)) + size.to_bytes(2, "big") + b"\0\0\x40\0" + bytes((64, 17))
        head += bytes((0, 0, 10, 32, 0, a, 10, 32, 0, b))
        self.hosts[a].pod_sends(mac(b) + mac(a) + b"\x08\0" + head.ljust(size, b"x"))
        self.run(0.1)
        return [f for f in self.hosts[a].bridge if f[:6] == mac(a) and f[23:24] == b"\1"]

    # ---- trouble

    def eat(self, a: int, b: int, *, one_way: bool = False, longer_than: int | None = None) -> None:
        """The underlay eats VXLAN between two, all of it or what is longer."""
        ways = ((a, b),) if one_way else ((a, b), (b, a))
        for src, dst in ways:
            road = self.network.road(self.hosts[src].address, self.hosts[dst].address)
            if longer_than is None:
                road.blocked.add(VXLAN_PORT)
            else:
                road.limits[VXLAN_PORT] = longer_than


def mac(number: int) -> bytes:
    return bytes((2, 0, 0, 0, 1, number))
