"""Gossip over a router's neighbours: the engine's effects performed, its news handed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mesh.effects import Arm, Notify
from mesh.gossip.engine import Changed, Gossip, GossipEffect, SendTo
from mesh.gossip.quarantine import Quarantined as GossipQuarantined
from mesh.names import PeerName
from mesh.router.events import ChannelChanged, Quarantined
from mesh.router.hub import Hub
from mesh.router.neighbours import Neighbours
from mesh.router.view import unserved
from mesh.topology.record import Record
from mesh.wire.control import Gossiped


class Rumours:
    """``engine`` is the gossip machine itself; what it returns goes through ``perform``."""

    def __init__(
        self,
        hub: Hub,
        neighbours: Neighbours,
        records: Callable[[], Mapping[PeerName, Record]],
        *,
        on_change: Callable[[str], None],
    ) -> None:
        self._hub, self._neighbours, self._records = hub, neighbours, records
        self._on_change = on_change
        self.engine = Gossip(hub.rng, self._relay)

    def receive(self, peer: PeerName, body: bytes) -> None:
        self.perform(self.engine.receive(peer, body, self._hub.now))

    def publish(self, channel: str, *keys: bytes) -> None:
        self.perform(self.engine.publish(channel, keys, self._hub.now))

    def handle_timer(self) -> None:
        self.perform(self.engine.handle_timer(self._hub.now))

    def perform(self, effects: list[GossipEffect]) -> None:
        for effect in effects:
            match effect:
                case SendTo(peer, body):
                    self._neighbours.send(peer, Gossiped(body))
                case Arm(deadline):
                    self._hub.deadlines.set(("gossip",), deadline)
                case Notify(event):
                    self._happened(event)

    def _relay(self, source: PeerName) -> tuple[PeerName, ...]:
        return unserved(self._records().get(source), self._neighbours)

    def _happened(self, event: Changed | GossipQuarantined) -> None:
        hub = self._hub
        match event:
            case Changed(channel, keys):
                self._on_change(channel)
                hub.notify(ChannelChanged(channel, keys))
            case GossipQuarantined(channel, key, reason, source):
                hub.count(reason)
                hub.notify(Quarantined(channel, key, reason, source))
