"""Gossip engines in one room: links that keep order, and can lose, pause and break."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.gossip.channel import Channel, Item, Merged, Rejected
from mesh.gossip.engine import Changed, Gossip, GossipEffect, SendTo
from mesh.gossip.quarantine import Quarantined
from mesh.names import PeerName
from mesh.wire.gossip import GossipMessage, decode
from tests.sim.views import name


class Notes:
    """A channel of plain octets: the newer stamp wins, payloads that begin with "bad" do not."""

    def __init__(self, called: str = "notes") -> None:
        self.name = called
        self.held: dict[bytes, Item] = {}
        self.merges = 0

    def put(self, key: bytes, stamp: int, payload: bytes = b"x") -> None:
        self.held[key] = Item(key, stamp, payload)

    def digest(self) -> Mapping[bytes, int]:
        return {key: item.stamp for key, item in self.held.items()}

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        return [self.held[key] for key in keys if key in self.held]

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        self.merges += 1
        news, rejected = [], []
        for item in items:
            if item.payload.startswith(b"bad"):
                rejected.append(Rejected(item.key, "bad-note"))
            elif item.key not in self.held or self.held[item.key].stamp < item.stamp:
                self.held[item.key] = item
                news.append(item.key)
        return Merged(tuple(news), tuple(rejected))


class Gossiper:
    """One engine with its channels and what it was told."""

    def __init__(self, number: int, room: Room, channels: Sequence[Channel]) -> None:
        self.name = name(number)
        self.neighbours: list[Gossiper] = []
        self.gossip = Gossip(Random(number), self._relay)
        for channel in channels:
            self.gossip.register(channel)
        self.room = room
        self.changed: list[Changed] = []
        self.quarantined: list[Quarantined] = []
        self.sent: list[tuple[PeerName, GossipMessage]] = []
        self.wake: Instant | None = None
        self.perform(self.gossip.handle_timer(room.now))

    def _relay(self, source: PeerName) -> tuple[PeerName, ...]:
        beside = next((n.neighbours for n in self.neighbours if n.name == source), [])
        return tuple(n.name for n in self.neighbours if n not in beside)

    def perform(self, effects: list[GossipEffect]) -> None:
        assert sum(isinstance(effect, Arm) for effect in effects) == 1
        for effect in effects:
            match effect:
                case SendTo(peer, message):
                    self.sent.append((peer, decode(message)))
                    self.room.carry(self, peer, message)
                case Arm(deadline):
                    self.wake = deadline
                case Notify(event):
                    self._happened(event)

    def _happened(self, event: Changed | Quarantined) -> None:
        match event:
            case Changed():
                self.changed.append(event)
            case Quarantined():
                self.quarantined.append(event)

    def publish(self, channel: str, *keys: bytes) -> None:
        self.perform(self.gossip.publish(channel, keys, self.room.now))

    def received(self, source: Gossiper, message: bytes) -> None:
        self.perform(self.gossip.receive(source.name, message, self.room.now))


class Room:
    """Time, and the links between gossipers."""

    def __init__(self) -> None:
        self.now = Instant(0.0)
        self.gossipers: list[Gossiper] = []
        self.lose = False
        self._under_way: deque[tuple[Gossiper, Gossiper, bytes]] = deque()

    def enter(self, number: int, *channels: Channel) -> Gossiper:
        gossiper = Gossiper(number, self, channels)
        self.gossipers.append(gossiper)
        return gossiper

    def link(self, a: Gossiper, b: Gossiper) -> None:
        a.neighbours.append(b)
        b.neighbours.append(a)
        a.perform(a.gossip.neighbour_up(b.name, self.now))
        b.perform(b.gossip.neighbour_up(a.name, self.now))

    def carry(self, source: Gossiper, peer: PeerName, message: bytes) -> None:
        if not self.lose:
            to = next(n for n in source.neighbours if n.name == peer)
            self._under_way.append((source, to, message))

    def deliver(self) -> int:
        """All that is under way and what it causes at once; how many messages that were."""
        count = 0
        while self._under_way:
            source, to, message = self._under_way.popleft()
            to.received(source, message)
            count += 1
            assert count < 100_000, "gossip never ends"
        return count

    def run(self, seconds: float) -> int:
        """Let time pass; how many messages were delivered."""
        end = Instant(self.now + seconds)
        count = self.deliver()
        while True:
            wakes = [g.wake for g in self.gossipers if g.wake is not None and g.wake <= end]
            if not wakes:
                self.now = end
                return count
            self.now = max(self.now, min(wakes))
            for gossiper in self.gossipers:
                if gossiper.wake is not None and gossiper.wake <= self.now:
                    gossiper.perform(gossiper.gossip.handle_timer(self.now))
            count += self.deliver()
