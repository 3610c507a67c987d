"""Peers, time and the mesh between them: what is said arrives late, twice, out of order, or not.

The mesh is the one that allocators see: unicasts over control connections, gossip by items and by
digests compared, and who can be reached, which every peer learns at a moment of its own.
"""

from __future__ import annotations

from collections import Counter
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from ipam.address import Address, AddressRange
from ipam.effects import AllocationKey
from mesh.gossip.channel import Item
from mesh.names import PeerName
from tests.ipam.fakes import Disk
from tests.ipam.ledger import Ledger
from tests.ipam.node import CHANNELS, Node

GOSSIP = 4.0
"""Seconds between comparisons of digests with somebody."""

FANOUT = 3


class World:
    def __init__(self, seed: int, peers: int, range: AddressRange, electors: int) -> None:
        self.rng = Random(seed)
        self.range, self.electors = range, electors
        self.time = 0.0
        self.loss = self.doubling = 0.0
        self.delay = 0.05
        self.ledger = Ledger(range)
        self.nodes: list[Node] = []
        self.by_name: dict[PeerName, Node] = {}
        self.side: dict[Node, int] = {}
        """Which part of a partition a peer is in."""
        self.blocked: set[tuple[Node, Node]] = set()
        """What is said in this direction is lost, though both ends believe in each other."""
        self.touched: set[Node] = set()
        self.befell: Counter[str] = Counter()
        self.inputs = 0
        self._events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._number = count()
        self._turn: list[Node] = []
        for _ in [None] * peers:
            self.join()

    def join(self) -> Node:
        late = len(self.nodes) >= self.electors  # nobody counted it when the first were launched
        node = Node(self, len(self.nodes), self.rng.randbytes(8), late)
        self.nodes.append(node)
        self.by_name[node.name] = node
        self.side[node] = 0
        node.start()
        self._at(self.rng.uniform(0.1, GOSSIP), self._compare, node, node.life)
        self.views()
        return node

    # ---- time

    def _at(self, delay: float, what: Any, *args: Any) -> None:
        heappush(self._events, (self.time + delay, next(self._number), what, args))

    def arm(self, node: Node, when: float) -> None:
        self._at(max(0.0, when - self.time), self._fire, node, node.life, node.deadline)

    def _fire(self, node: Node, life: int, deadline: int) -> None:
        if node.life == life and node.deadline == deadline:
            node.fire()

    def run(self, seconds: float) -> None:
        """Let that much time pass; what is asserted is asserted after each event."""
        until = self.time + seconds
        self.end_turn()
        events = self._events
        while events and events[0][0] <= until:
            self.time, _, what, args = heappop(events)
            what(*args)
            if self._turn and (not events or events[0][0] > self.time):
                self.end_turn()
        self.time = until

    def at_turn_s_end(self, node: Node) -> None:
        self._turn.append(node)

    def end_turn(self) -> None:
        while self._turn:
            turn, self._turn = self._turn, []
            for node in turn:
                node.turn_ends()
        for node in self.touched:
            self.ledger.check(node)
        self.touched.clear()
        if self.ledger.forked:
            self.ledger.agreed(self.nodes)

    # ---- life

    def start(self, node: Node) -> None:
        if node.alive or node.gone:
            return
        node.start()
        self._at(self.rng.uniform(0.1, GOSSIP), self._compare, node, node.life)
        self.views()

    def kill(self, node: Node) -> None:
        if node.alive and not node.is_clone:
            self.befell["killed"] += 1
            node.kill()
            self.touched.add(node)
            self.views()

    killed = kill

    def restore(self, node: Node, disk: Disk, granted: dict[AllocationKey, Address]) -> None:
        """The host goes back to a snapshot: what was there later is not, what was is again."""
        self.befell["restored"] += 1
        self.kill(node)
        self.end_turn()
        for key, address in list(node.granted.items()):
            self.ledger.freed(node, key, address)
        mine = self.ledger.by_its_own_word(node)
        self.ledger.forget(node)
        node.disk, node.granted, node.is_restored = disk, dict(granted), True
        node.unsure = set(disk.allocations) - set(granted)
        for key, address in granted.items():
            self.ledger.revived(node, key, address)
        node.astray |= set(granted.values()) - mine  # it had parted with them
        self.ledger.keeps(node, mine & self.ledger.by_its_own_word(node))
        self.start(node)

    def clone(self, node: Node, key: AllocationKey) -> None:
        """A copy, which asks for an address at once, and which every peer refuses as one."""
        self.befell["cloned"] += 1
        copy = Node(self, len(self.nodes), b"", node.observer, like=node)
        self.nodes.append(copy)
        self.side[copy] = self.side[node]
        copy.start()
        copy.doubt()
        copy.allocate(key)

    def end_clones(self) -> None:
        for node in [n for n in self.nodes if n.is_clone]:
            assert not node.granted, "R21: a clone gave an address out"
            node.kill()
            self.nodes.remove(node)

    def left(self, node: Node) -> None:
        """It handed all over and is wiped: what comes back is somebody else."""
        if node.core is None or not node.core.leaving.has_left:
            return
        self.befell["left"] += 1
        for key, address in node.granted.items():
            self.ledger.freed(node, key, address)
        node.granted.clear()
        node.gone = True
        self.kill(node)

    # ---- who reaches whom

    def linked(self, one: Node, other: Node) -> bool:
        return self.side[one] == self.side[other] and not (one.is_clone or other.is_clone)

    def part(self, sides: int) -> None:
        for node in self.nodes:
            self.side[node] = self.rng.randrange(sides)
        self.views()

    def heal(self) -> None:
        for node in self.nodes:
            self.side[node] = 0
        self.blocked.clear()
        self.views()

    def views(self) -> None:
        """Everybody learns who is there now, sooner or later."""
        for node in self.nodes:
            if node.core is not None and not node.is_clone:
                self._at(self.rng.uniform(0.0, 2.0), self._see, node, node.life)

    def _see(self, node: Node, life: int) -> None:
        if node.life == life:
            node.see({n.name: "" for n in self.peers(node)})

    def peers(self, node: Node) -> list[Node]:
        if node.is_clone:
            return []
        side = self.side
        here = side[node]
        return [
            n
            for n in self.nodes
            if n.core is not None and side[n] == here and n is not node and not n.is_clone
        ]

    # ---- what is said

    def _fate(self, src: Node, dst: Node) -> int:
        """How many copies arrive."""
        if (src, dst) in self.blocked or self.rng.random() < self.loss:
            self.befell["lost"] += 1
            return 0
        if self.rng.random() < self.doubling:
            self.befell["doubled"] += 1
            return 2
        return 1

    def send(self, src: Node, peer: PeerName, data: bytes) -> None:
        dst = self.by_name.get(peer)
        if dst is None:
            return
        for _ in range(self._fate(src, dst)):
            self._at(self.rng.random() * self.delay, self._deliver, src, dst, data)

    def _deliver(self, src: Node, dst: Node, data: bytes) -> None:
        if self.linked(src, dst):
            dst.hear(src.name, data)

    def publish(self, node: Node, channel: str, keys: tuple[bytes, ...]) -> None:
        items = node.channels[channel].items(keys)
        if items:
            for peer in self._some(node, FANOUT + 1):
                self.gossip(node, peer, channel, items)

    def gossip(self, src: Node, dst: Node, channel: str, items: list[Item]) -> None:
        for _ in range(self._fate(src, dst)):
            self._at(self.rng.random() * self.delay, self._merge, src, dst, channel, items)

    def _merge(self, src: Node, dst: Node, channel: str, items: list[Item]) -> None:
        if not self.linked(src, dst):
            return
        news = dst.merge(channel, items, src)
        if news:
            again = dst.channels[channel].items(news)
            for peer in self._some(dst, FANOUT):
                if peer is not src:
                    self.gossip(dst, peer, channel, again)

    def _some(self, node: Node, n: int) -> list[Node]:
        peers = self.peers(node)
        return peers if len(peers) <= n else self.rng.sample(peers, n)

    def _compare(self, node: Node, life: int) -> None:
        """Digests compared with somebody, both ways: what either has newer goes over."""
        if node.life != life:
            return
        self._at(GOSSIP * (0.5 + self.rng.random()), self._compare, node, life)
        for peer in self._some(node, 1):
            for channel in CHANNELS:
                ours, theirs = (n.channels[channel].digest() for n in (node, peer))
                if ours == theirs:
                    continue
                for src, dst, mine, other in (
                    (node, peer, ours, theirs),
                    (peer, node, theirs, ours),
                ):
                    newer = [key for key, stamp in mine.items() if stamp > other.get(key, -1)]
                    if newer:
                        self.gossip(src, dst, channel, src.channels[channel].items(newer))
