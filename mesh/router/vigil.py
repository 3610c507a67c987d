"""Keeping watch over neighbours: probes, suspicion, measured cost.

Who drives it: ``mesh.router.router``. One ``Liveness`` machine a neighbour; this part gives it
its datagrams, lets others vouch for a suspect, and closes the connection of the dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.clock import Instant
from mesh.connection.connection import Remote
from mesh.connection.reasons import Refusal
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.names import Endpoint, PeerName
from mesh.router.effects import SendDatagram
from mesh.router.hub import Hub
from mesh.router.neighbours import Neighbours
from mesh.topology.liveness import (
    AskOthers,
    Dead,
    Liveness,
    LivenessEffect,
    Measured,
    SendProbe,
    Suspect,
)
from mesh.topology.published_cost import PublishedCost
from mesh.topology.record import Record
from mesh.wire.control import Ask, Ping
from mesh.wire.probe import probe_sender

WITNESSES = 3
"""Neighbours asked about a suspect: one honest, reachable witness is enough."""

STREAM_ASK = 10.0
"""Seconds of silence on a connection after which it is asked to answer, though datagrams are."""

STREAM_SILENT = 30.0
"""Seconds after which it is given up: the peer lives, but nothing said to it would arrive."""

UNMEASURED_US = 10_000
"""Cost in microseconds of a path before its first measurement."""


@dataclass(slots=True)
class Watched:
    liveness: Liveness
    endpoint: Endpoint
    cost: PublishedCost
    heard_at: Instant
    """The last sign of life of the peer, ``read_at`` the last on the connection itself."""
    read_at: Instant
    suspected: bool = False
    rtt: float | None = None


class Vigil:
    def __init__(
        self,
        hub: Hub,
        neighbours: Neighbours,
        records: Callable[[], Mapping[PeerName, Record]],
    ) -> None:
        self._hub, self._neighbours, self._records = hub, neighbours, records
        self.watched: dict[PeerName, Watched] = {}

    def watch(self, peer: PeerName, remote: Remote, endpoint: Endpoint) -> None:
        """Watch over a connection from now on, instead of an earlier one with this peer."""
        hub = self._hub
        liveness = Liveness(hub.us, peer, remote.key, hub.rng, timeout=hub.config.liveness_timeout)
        before = self.watched.get(peer)
        cost = before.cost if before is not None else PublishedCost()
        watched = Watched(liveness, endpoint, cost, hub.now, hub.now)
        self.watched[peer] = watched
        self._perform(peer, watched, liveness.start(hub.now))

    def drop(self, peer: PeerName) -> None:
        self.watched.pop(peer, None)
        self._hub.deadlines.set(("live", peer), None)

    def receive(self, data: bytes) -> None:
        """A datagram on the probe port: whatever is wrong with it, it is only counted."""
        hub = self._hub
        try:
            peer = probe_sender(data)
            watched = self.watched.get(peer)
            if watched is None:
                hub.count("probe-from-stranger")
                return
            effects = watched.liveness.receive_probe(data, hub.now)
        except MalformedMessageError as err:
            hub.count("probe-" + err.reason)
            return
        watched.heard_at = hub.now
        watched.suspected = False
        self._perform(peer, watched, effects)
        self._mind_stream(peer, watched)

    def heard(self, peer: PeerName) -> None:
        if (watched := self.watched.get(peer)) is not None:
            watched.heard_at = watched.read_at = self._hub.now
            watched.suspected = False
            self._perform(peer, watched, watched.liveness.heard(self._hub.now))

    def vouched(self, peer: PeerName) -> None:
        if (watched := self.watched.get(peer)) is not None:
            self._perform(peer, watched, watched.liveness.vouched(self._hub.now))

    def heard_lately(self, peer: PeerName) -> bool:
        """Whether we would vouch for this peer: we heard it within half the timeout."""
        watched = self.watched.get(peer)
        half = self._hub.config.liveness_timeout / 2
        return watched is not None and self._hub.now - watched.heard_at <= half

    def cost_us(self, peer: PeerName, link_rtt: float | None) -> int:
        """The cost to publish for the edge to ``peer``, in microseconds of round trip."""
        watched = self.watched.get(peer)
        if watched is None:
            return UNMEASURED_US
        rtt = link_rtt if link_rtt is not None else watched.rtt
        if rtt is None:
            return UNMEASURED_US
        return watched.cost.update(rtt, self._hub.now)

    def handle_timer(self, key: tuple[object, ...]) -> None:
        match key:
            case ("live", PeerName() as peer) if (watched := self.watched.get(peer)) is not None:
                self._perform(peer, watched, watched.liveness.handle_timer(self._hub.now))
            case _:
                return

    def _perform(self, peer: PeerName, watched: Watched, effects: list[LivenessEffect]) -> None:
        hub = self._hub
        for effect in effects:
            match effect:
                case SendProbe(data):
                    hub.emit(SendDatagram(watched.endpoint, data))
                case Arm(deadline):
                    hub.deadlines.set(("live", peer), deadline)
                case AskOthers():
                    self._ask(peer)
                case Notify(event):
                    self._happened(peer, watched, event)

    def _happened(self, peer: PeerName, watched: Watched, event: Measured | Suspect | Dead) -> None:
        match event:
            case Measured(rtt):
                watched.rtt = rtt
            case Suspect():
                # The probe port may be blocked while the connection is fine: ask there too.
                watched.suspected = True
                self._neighbours.send(peer, Ping(self._hub.rng.getrandbits(64)))
            case Dead():
                self._neighbours.close_peer(peer, Refusal.SILENT)

    def _mind_stream(self, peer: PeerName, watched: Watched) -> None:
        """The peer lives, by its datagrams: whether its connection does is another question."""
        silence = self._hub.now - watched.read_at
        if silence >= STREAM_SILENT:
            self._neighbours.close_peer(peer, Refusal.SILENT)
        elif silence >= STREAM_ASK:
            self._neighbours.send(peer, Ping(self._hub.rng.getrandbits(64)))

    def _ask(self, suspect: PeerName) -> None:
        records = self._records()
        record = records.get(suspect)
        beside = set() if record is None else {edge.peer for edge in record.edges}
        witnesses = [p for p in self._neighbours.by_peer if p != suspect and p in beside]
        self._hub.rng.shuffle(witnesses)
        for witness in witnesses[:WITNESSES]:
            self._neighbours.send(witness, Ask(suspect))
