"""Commands of the stories in this folder, performed by real cores under simulated time.

Peers are ``a``, ``b``, ``c`` … on a perfect underlay, so that only what is told happens. Each
command yields what happened during it, in the order in which it happened.
"""

from __future__ import annotations

from collections.abc import Callable

from ipam.effects import AllocationKey
from ipam.messages import decode
from ipam.ring import CHANNEL as RING
from mesh.connection.maker import Target
from mesh.names import PeerName, ShortID
from mesh.router.events import (
    CloneSuspected,
    ConnectionDown,
    ConnectionUp,
    LinkChanged,
    PeerGone,
    PeersChanged,
    Quarantined,
    RouterEvent,
    UnicastReceived,
)
from tests.sim.addresses import RANGE
from tests.sim.host import PORT, SimHost
from tests.sim.mesh import SimMesh
from tests.sim.network import Weather
from tests.sim.talk import ring

SECONDS = 5.0
"""How long a command takes, unless it says so: the slowest thing that must happen at once."""


class Stage(SimMesh):
    def __init__(self, count: int) -> None:
        super().__init__(1, count, Weather(delay=(0.001, 0.001)))
        for host in self.hosts:
            host.passwords = ring("secret")
        self.letters = {host.address: chr(ord("a") + host.number) for host in self.hosts}
        self.names = {host.name: self.letters[host.address] for host in self.hosts}
        self.said: list[str] = []

    def host(self, letter: str) -> SimHost:
        return next(h for h in self.hosts if self.letters[h.address] == letter)

    # ---- what happened

    def _event(self, host: SimHost, event: RouterEvent) -> None:
        if (line := self._told(event)) is not None:
            self.tell(host, line)
        super()._event(host, event)

    def tell(self, host: SimHost, line: str) -> None:
        self.said.append(f"{self.letters[host.address]}  {line}")

    def _told(self, event: RouterEvent) -> str | None:
        match event:
            case ConnectionUp(peer, _, _, outbound):
                return f"connected {'to' if outbound else 'by'} {self._name(peer)}"
            case ConnectionDown(peer, remote, reason, by_peer, established):
                other = self._where(remote) if peer is None else self._name(peer)
                what = "lost" if established else "refused"
                return f"{what} {other}: {reason}{' (it says)' if by_peer else ''}"
            case LinkChanged(peer, up, reason):
                return f"link to {self._name(peer)} {'up' if up else 'down'}: {reason}"
            case PeersChanged(reachable):
                return f"reaches {self._list(reachable)}"
            case Quarantined(channel, _, reason, source):
                return f"refuses {channel} from {self._name(source)}: {reason}"
            case PeerGone(peer):
                return f"forgets {self._name(peer)}"
            case CloneSuspected():
                return "suspects a clone"
            case UnicastReceived(src, channel, payload) if channel == RING:
                return f"hears {decode(payload).kind.name} from {self._name(src)}"
            case _:
                return None

    def _name(self, peer: PeerName) -> str:
        return self.names.get(peer, str(peer))

    def _where(self, remote: str) -> str:
        return self.letters.get(remote.rpartition(":")[0], remote)

    def _list(self, peers: frozenset[PeerName] | set[PeerName]) -> str:
        return " ".join(sorted(map(self._name, peers))) or "nobody"

    # ---- commands

    def perform(self, command: str) -> list[str]:
        """Run one line; what it says and what happened. Raises for what is no command."""
        word, *args = command.split()
        self.said = []
        getattr(self, "do_" + word.replace("-", "_"))(*args)
        return self.said

    def do_start(self, *letters: str) -> None:
        """``start a b:a``: a, and b who was told of a."""
        for word in letters:
            letter, _, others = word.partition(":")
            host = self.host(letter)
            host.targets += tuple(Target(self.host(o).address, PORT) for o in others)
            self.start(host)
            self.ipams[host.address].on_answer = self._answer_teller(host)
        self.run(SECONDS)

    def _answer_teller(self, host: SimHost) -> Callable[[AllocationKey, str], None]:
        def told(key: AllocationKey, answer: str) -> None:
            self.tell(host, f"{key.container}: {answer}")

        return told

    def do_kill(self, *letters: str) -> None:
        for letter in letters:
            self.kill(self.host(letter))
        self.run(0.5)

    def do_run(self, seconds: str) -> None:
        self.run(float(seconds))

    def do_connect(self, letter: str, other: str) -> None:
        host, target = self.host(letter), Target(self.host(other).address, PORT)
        host.perform(host.router.connect((target,), self.clock.now()))
        self.run(SECONDS)

    def do_fence(self, letter: str, other: str) -> None:
        """These two never reach each other on the underlay."""
        self.network.fence(self.host(letter).address, self.host(other).address)

    def do_part(self, *groups: str) -> None:
        """``part ab c``: a and b no longer reach c."""
        addresses = [[self.host(letter).address for letter in group] for group in groups]
        for n, group in enumerate(addresses):
            for other in addresses[n + 1 :]:
                self.network.part(group, other)
        self.run(2 * SECONDS)

    def do_heal(self) -> None:
        self.network.heal()
        self.run(4 * SECONDS)

    def do_password(self, letter: str, *passwords: str) -> None:
        """``password b id=text``; before ``start``, and afterwards a reload."""
        host = self.host(letter)
        host.passwords = ring(*passwords)
        if host.alive:
            host.perform(host.router.set_passwords(host.passwords, self.clock.now()))

    def do_clone(self, letter: str, of: str) -> None:
        """Its disk is a copy of the other's."""
        copy, host = self.host(letter), self.host(of)
        copy.identity, copy.name = host.identity, host.name

    def do_short_id(self, letter: str, short_id: str) -> None:
        """Before ``start``: the one it had at its last start."""
        self.host(letter).short_id = ShortID(int(short_id))

    def do_allocate(self, letter: str, *containers: str) -> None:
        for container in containers:
            self.ipams[self.host(letter).address].allocate(AllocationKey(container, "eth0"))
            self.run(1.0)
        self.run(SECONDS)

    def do_fill(self, letter: str) -> None:
        """Allocate until nothing is free here."""
        ipam = self.ipams[self.host(letter).address]
        free = ipam.core.space.free_count()
        for _ in range(free):
            self.allocate(self.host(letter))
        self.run(1.0)
        self.said = [f"{letter}  allocated {free}"]

    def do_reclaim(self, letter: str, of: str) -> None:
        self.ipams[self.host(letter).address].reclaim(self.host(of).name)
        self.run(SECONDS)

    # ---- questions

    def do_peers(self, letter: str) -> None:
        host = self.host(letter)
        for name, record in sorted(host.router.topology.records.items(), key=self._by_letter):
            self.tell(host, f"{self._name(name)} has short ID {record.short_id}")

    def do_routes(self, *letters: str) -> None:
        for letter in letters:
            host = self.host(letter)
            for peer, route in sorted(host.router.routes.unicast.items(), key=self._by_letter):
                hops = "directly" if route.hops == 1 else f"over {self._name(route.next_hop)}"
                self.tell(host, f"{self._name(peer)} {hops}")

    def _by_letter(self, item: tuple[PeerName, object]) -> str:
        return self._name(item[0])

    def do_connections(self, letter: str) -> None:
        """What ``weaver status connections`` says, with the words for people."""
        host = self.host(letter)
        for row in host.router.status(self.clock.now()).connections:
            words = "" if row.explanation is None else f": {row.explanation}"
            reason = "" if row.reason is None else f" {row.reason}"
            self.tell(host, f"{self._where(row.remote)} {row.state}{reason}{words}")

    def do_ring(self, *letters: str) -> None:
        for letter in letters:
            host = self.host(letter)
            shares = self.ipams[host.address].core.ring.shares()
            parts = [
                f"{self._name(n)} {size}" for n, size in sorted(shares.items(), key=self._by_letter)
            ]
            self.tell(host, f"ring {', '.join(parts) or 'none'} of {RANGE.size}")

    def do_frames(self) -> None:
        """A frame from everybody to everybody, and a broadcast: who gets what."""
        alive = self.alive
        for host in alive:
            host.received.clear()
        for host in alive:
            for other in alive:
                short_id = other.router.topology.own.short_id
                if other is not host and short_id is not None:
                    host.worker.unicast(short_id, b"unicast")
            host.worker.broadcast(b"broadcast")
        self.run(1.0)
        for host in alive:
            for kind in (b"unicast", b"broadcast"):
                heard = sorted(self._name(src) for src, frame in host.received if frame == kind)
                self.tell(host, f"{kind.decode()}s from {' '.join(heard) or 'nobody'}")
