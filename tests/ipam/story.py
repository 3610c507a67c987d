"""What happens to a world: orders and troubles drawn from a seed, each of them resolved against
the world as it is then, so that a story with parts taken out is a story still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

from ipam.address import Address, AddressRange
from ipam.effects import AllocationKey, Surveyed
from ipam.ring import CHANNEL as RING
from ipam.slices import Slice, decode_slice, encode_slice, sign_slice
from mesh.gossip.channel import Item
from mesh.names import PeerName
from tests.ipam.fakes import Disk, key_of
from tests.ipam.node import Node
from tests.ipam.world import GOSSIP, World
from weaver.daemon.comparison import compare, has_settled

KINDS: tuple[tuple[str, int], ...] = (
    ("allocate", 40),
    ("free", 24),
    ("again", 6),
    ("claim", 6),
    ("wait", 8),
    ("kill", 3),
    ("kill-in-write", 3),
    ("start", 8),
    ("die", 1),
    ("reclaim", 3),
    ("leave", 1),
    ("stay", 1),
    ("join", 1),
    ("snapshot", 2),
    ("restore", 1),
    ("clone", 1),
    ("part", 2),
    ("heal", 3),
    ("block", 2),
    ("break-disk", 1),
    ("mend-disk", 3),
    ("weather", 1),
    ("clock", 2),
    ("lie", 2),
)
MAX_PEERS = 64
NOBODY = PeerName(b"nobody..")
"""To whom liars give what is not theirs."""


class Step(NamedTuple):
    """An order and the numbers that choose its parts."""

    what: str
    a: int
    b: int

    def __str__(self) -> str:
        return f"{self.what} {self.a} {self.b}"


class Setting(NamedTuple):
    peers: int
    range: str
    electors: int


def setting(seed: int) -> Setting:
    rng = Random(f"setting {seed}")
    peers = rng.choice((1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 12))
    if seed % 50 == 0:
        peers = rng.choice((24, 40, 64))
    small = "10.32.0.0/28" if peers < 4 else "10.32.0.0/27" if peers < 9 else "10.32.0.0/25"
    large = "fd00::/122" if rng.random() < 0.3 else "10.32.0.0/26"
    return Setting(peers, rng.choice((small, large if peers < 16 else small)), peers)


def written(seed: int, steps: int) -> list[Step]:
    rng = Random(f"story {seed}")
    kinds = rng.choices([k for k, _ in KINDS], [w for _, w in KINDS], k=steps)
    return [Step(kind, rng.getrandbits(16), rng.getrandbits(16)) for kind in kinds]


class Teller:
    """Performs steps; every method answers what it did, or "" for nothing."""

    def __init__(self, seed: int, told: Setting) -> None:
        self.world = World(seed, told.peers, AddressRange.parse(told.range), told.electors)
        self._keys, self._peers = 0, told.peers + 1
        self._snapshots: list[tuple[Node, Disk, dict[AllocationKey, Address]]] = []
        self.operations = 0

    def tell(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.operations += 1
            self.do(step)
            self.world.run(0.02 + (step.b % 16) / 40)

    def do(self, step: Step) -> None:
        doer: Callable[[int, int], None] = getattr(self, "_" + step.what.replace("-", "_"))
        doer(step.a, step.b)

    def _living(self, a: int) -> Node | None:
        alive = [n for n in self.world.nodes if n.alive]
        return alive[a % len(alive)] if alive else None

    # ---- orders

    def _allocate(self, a: int, b: int) -> None:
        node = self._living(a)
        if node is not None:
            for _ in range(1 + b % 3):
                self._keys += 1
                node.allocate(key_of(self._keys))

    def _again(self, a: int, b: int) -> None:
        node = self._living(a)
        if node is not None and node.granted:
            node.allocate(sorted(node.granted)[b % len(node.granted)])

    def _claim(self, a: int, b: int) -> None:
        node = self._living(a)
        if node is not None:
            self._keys += 1
            range = self.world.range
            node.claim(key_of(self._keys), Address(range.start + b % range.size))

    def _free(self, a: int, b: int) -> None:
        node = self._living(a)
        if node is not None and node.granted:
            node.free(sorted(node.granted)[b % len(node.granted)])

    def _reclaim(self, a: int, b: int) -> None:
        """Of somebody who is dead, by one or by two at once."""
        node = self._living(a)
        dead = [n for n in self.world.nodes if not n.alive and not n.is_clone]
        if node is not None and dead:
            victim = dead[b % len(dead)]
            node.reclaim(victim.name)
            other = self._living(a + 1)
            if b & 256 and other is not None:
                other.reclaim(victim.name)

    def _leave(self, a: int, _: int) -> None:
        node = self._living(a)
        if node is not None and len(self.world.nodes) > 1:
            for key in list(node.granted):
                node.free(key)
            node.leave()

    def _stay(self, a: int, _: int) -> None:
        node = self._living(a)
        if node is not None and node.core is not None and node.core.withheld == "leaving":
            node.stay()

    # ---- troubles

    def _wait(self, _: int, b: int) -> None:
        self.world.run((b % 100) / 10)

    def _kill(self, a: int, _: int) -> None:
        node = self._living(a)
        if node is not None:
            self.world.kill(node)

    def _kill_in_write(self, a: int, b: int) -> None:
        node = self._living(a)
        if node is not None:
            node.disk.kill_at = b % 4

    def _start(self, a: int, _: int) -> None:
        down = [n for n in self.world.nodes if not n.alive and not n.gone and not n.is_clone]
        if down:
            self.world.start(down[a % len(down)])

    def _die(self, a: int, _: int) -> None:
        """The host is destroyed."""
        node = self._living(a)
        if node is not None and sum(n.alive for n in self.world.nodes) > 2:
            self.world.ledger.died(node)
            node.granted.clear()
            node.gone = True
            self.world.kill(node)

    def _join(self, _: int, __: int) -> None:
        if sum(not n.gone for n in self.world.nodes) < min(MAX_PEERS, 2 * self._peers):
            self.world.join()

    def _part(self, a: int, b: int) -> None:
        self.world.part(2 + (a % 4 if b & 1 else 0))

    def _heal(self, _: int, __: int) -> None:
        self.world.heal()

    def _block(self, a: int, b: int) -> None:
        one, other = self._living(a), self._living(b)
        if one is not None and other is not None and one is not other:
            self.world.blocked.add((one, other))

    def _break_disk(self, a: int, _: int) -> None:
        node = self._living(a)
        if node is not None:
            node.disk.broken = True

    def _mend_disk(self, _: int, __: int) -> None:
        for node in self.world.nodes:
            node.disk.broken = False

    def _weather(self, a: int, b: int) -> None:
        self.world.loss = (a % 7) * 0.05
        self.world.doubling = (b % 3) * 0.1
        self.world.delay = (0.01, 0.05, 0.3, 1.0)[b % 4]

    def _clock(self, a: int, b: int) -> None:
        node = self._living(a)
        if node is not None:
            now = node.now()
            node.rate = (0.9, 1.0, 1.1)[b % 3]
            node.base = now - self.world.time * node.rate + (600.0 if b & 64 else 0.0)
            node.fire()

    def _snapshot(self, a: int, _: int) -> None:
        node = self._living(a)
        if node is not None and node.core is not None and node.core.ring.is_seeded:
            self._snapshots.append((node, node.disk.copy(), dict(node.granted)))

    def _restore(self, a: int, _: int) -> None:
        """A host as it was, containers and all; only where somebody in reach knows better, for
        nothing can help a host that is alone with an old memory."""
        if not self._snapshots:
            return
        node, disk, granted = self._snapshots[a % len(self._snapshots)]
        if not node.gone and self._somebody_knows(node):
            self.world.restore(node, disk.copy(), granted)

    def _somebody_knows(self, node: Node) -> bool:
        world = self.world
        here = [n for n in world.peers(node) if n.core is not None and not n.disk.broken]
        quiet = not world.blocked and len(set(world.side.values())) == 1
        known = [decode_slice(octets)[1] for octets in node.disk.slices.values()]
        return quiet and all(any(_knows(n, piece) for n in here) for piece in known)

    def _clone(self, a: int, _: int) -> None:
        """A copy of a living host is started beside it; the mesh lets only one of them in."""
        node = self._living(a)
        if node is not None and node.core is not None and node.core.ring.is_seeded:
            self._keys += 1
            self.world.clone(node, key_of(self._keys))

    def _lie(self, a: int, b: int) -> None:
        """Somebody says of a slice of another's what only its owner may say: that it is a third
        one's, whom nobody knows. (Said to be its own, its own core, which is honest, would believe
        it when it comes back.)"""
        liar, victim = self._living(a), self._living(b)
        if liar is None or victim is None or liar.core is None or victim.core is None:
            return
        ring = liar.core.ring
        mine = ring.owned(victim.name)
        if liar is victim or ring.id is None or not mine or victim.core.returning.is_open:
            return  # who does not know what is true of its own cannot know a lie
        held = mine[b % len(mine)]
        stolen = replace(held, owner=NOBODY, version=held.version + 1 + a % 4, takeover=False)
        said = sign_slice(ring.id, stolen, liar.identity)
        item = Item(said.key, said.stamp, encode_slice(ring.id, said))
        self.world.befell["lies"] += 1
        self.world.gossip(liar, victim, RING, [item])

    # ---- the end

    def settle(self) -> None:
        """All trouble ends: then all is as it was meant to be."""
        world = self.world
        world.loss = world.doubling = 0.0
        world.delay = 0.05
        self._mend_disk(0, 0)
        world.end_clones()
        for node in world.nodes:
            node.disk.kill_at = None
            if node.core is not None and node.core.withheld == "leaving":
                node.stay()
            world.start(node)
        world.heal()
        world.run(40.0)
        seeded = any(n.core is not None and n.core.ring.is_seeded for n in world.nodes)
        electors = [n for n in world.nodes if n.alive and not n.observer]
        if not seeded and len(electors) < world.electors // 2 + 1:
            return  # those who could have divided the range are gone for good
        living = [n for n in world.nodes if n.alive]
        for dead in [n for n in world.nodes if not n.alive]:
            living[dead.number % len(living)].reclaim(dead.name, force=True)
        living[0].reclaim(NOBODY, force=True)
        self._ask_again(living)
        world.run(10 * GOSSIP)
        self._same(living)
        self._accounted(living)
        self._serves(living)

    def _ask_again(self, living: list[Node]) -> None:
        for node in living:
            for key in list(node.unsure):
                node.free(key)

    def _same(self, living: list[Node]) -> None:
        rings = {}
        for node in living:
            assert node.core is not None
            rings[node] = {
                start: (p.end, p.owner, p.version) for start, p in node.core.ring.slices.items()
            }
        first = rings[living[0]]
        for node, ring in rings.items():
            apart = {at - self.world.range.start for at, _ in ring.items() ^ first.items()}
            assert not apart, f"rings of {living[0]} and {node} differ at {sorted(apart)}"
            core = node.core
            assert core is not None
            assert core.ring.gaps() == [], f"gaps {core.ring.gaps()}"
            disputes = [c for c in core.ring.conflicts.values() if c.reason != "slice-forged"]
            assert not disputes, f"disputes {disputes}"
        names = {n.name for n in living}
        owners = {owner for _, owner, _ in first.values()}
        assert owners <= names, "a dead peer's space is nobody's"
        self._compared(living)

    @staticmethod
    def _compared(living: list[Node]) -> None:
        """What `ipam check` says when all is well: nothing, whoever asks."""
        cores = [node.core for node in living if node.core is not None]
        reports = {core.us: core.report() for core in cores}
        survey = Surveyed(reports, ())
        for core in (cores[0], cores[-1]):
            assert has_settled(core.ring, survey), f"{core.us} is not of one mind with the others"
            found = {finding["what"] for finding in compare(core.ring, survey, str)}
            alarms = found & {"overlap", "disowned", "ring-differs", "cluster-mismatch", "gap"}
            assert not alarms, f"false alarms: {alarms}"

    def _accounted(self, living: list[Node]) -> None:
        """Every container has its address by the ring, or its host says that it is lost (R18)."""
        for node in living:
            core = node.core
            assert core is not None
            for key, address in node.granted.items():
                has = core.space.owns(address) and core.holder_of(address) == key
                assert has or key in node.reported, f"R18: {node} says nothing of {key.container}"

    def _serves(self, living: list[Node]) -> None:
        """Whoever asks is served while an address is free anywhere."""
        world = self.world
        world.run(REST_ALL)
        range = world.range
        left = range.size - 2 - len(world.ledger.holders)
        node = living[self._keys % len(living)]
        before = set(node.granted)
        want = min(left, 24)
        for _ in [None] * want:
            self._keys += 1
            node.allocate(key_of(self._keys))
        world.run(25.0)
        served = len(set(node.granted) - before)
        assert served == want, f"{served} of {want} served by {node}: {self._unused(living)}"

    def _unused(self, living: list[Node]) -> str:
        """Where what nobody has is, and why it is not given."""
        rows = []
        ring = living[0].core
        assert ring is not None
        for at in range(self.world.range.start + 1, self.world.range.end - 1):
            if at in self.world.ledger.holders:
                continue
            owner = self.world.by_name.get(ring.ring.owner_of(at) or PeerName(bytes(8)))
            core = None if owner is None else owner.core
            why = "no owner"
            if core is not None:
                key = core.holder_of(Address(at))
                why = "used" if key else "resting" if at in core.space._resting else "free"
                why += f" {key.container}" if key else ""
                why += f" {core._why_not_here()}"
            rows.append(f"{at - self.world.range.start}: {owner} {why}")
        return ", ".join(rows)


def _knows(node: Node, piece: Slice) -> bool:
    """Whether a peer has heard of this slice, or of what became of it."""
    assert node.core is not None
    held = node.core.ring.at(piece.start)
    return held is not None and held.stamp >= piece.stamp


REST_ALL = 14.0


def story(seed: int, steps: int, script: Sequence[Step] | None = None) -> Teller:
    """The whole of it. Raises AssertionError for what must not be."""
    teller = Teller(seed, setting(seed))
    teller.tell(written(seed, steps) if script is None else script)
    teller.settle()
    return teller
