"""Links: keys per pair of peers, health per direct path, and what the worker must know.

Who drives it: ``mesh.router.router``. The worker is told by difference: what it should know is
computed from topology, routes and probes, compared with what it was told, and only the change is
sent. A restarted worker was told nothing, and gets new keys: the old ones' counters died with it.

Invariants: the worker never gets keys for a short ID it does not know; keys once sent are never
sent again; a link is ``up`` only while its probes are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh.clock import Instant
from mesh.connection.connection import Local
from mesh.effects import Arm, Notify
from mesh.link.epochs import PairKeys
from mesh.link.linkprobe import (
    LinkDown,
    LinkEffect,
    LinkProbe,
    LinkUp,
    Measured,
    SegmentChanged,
    SendProbe,
)
from mesh.link.pair_effects import (
    ActivateEpoch,
    InstallEpoch,
    PairEffect,
    PairFailed,
    PairReady,
    RetireEpoch,
    SendPair,
)
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
from mesh.router.effects import TellWorker
from mesh.router.events import LinkChanged
from mesh.router.hub import Hub
from mesh.topology.record import Record
from mesh.topology.routes import Routes
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher

FIRST_SEGMENT = 1200
"""UDP payload octets a datagram before the path is measured: fits the smallest IPv6 underlay."""


@dataclass(slots=True)
class Pair:
    """End-to-end keys with one peer, under the UID and short ID they were made for."""

    keys: PairKeys
    uid: PeerUID
    short_id: ShortID
    epoch: int | None = None
    cipher: Cipher | None = None
    ready_at: Instant | None = None
    reason: str = "handshaking"


@dataclass(slots=True)
class Direct:
    """The direct data path to a neighbour."""

    probe: LinkProbe
    endpoint: Endpoint
    running: bool = False
    up: bool = False
    segment: int = FIRST_SEGMENT
    rtt: float | None = None
    reason: str = "not-probed"
    since: Instant = field(default=Instant(0.0))


@dataclass
class Told:
    """What the worker was told, and, in another instance, what it should know."""

    peers: dict[ShortID, tuple[PeerName, int]] = field(default_factory=dict)
    neighbours: dict[ShortID, tuple[Endpoint, int]] = field(default_factory=dict)
    routes: dict[ShortID, tuple[ShortID, int]] = field(default_factory=dict)
    trees: dict[ShortID, tuple[ShortID, ...]] = field(default_factory=dict)


class Links:
    def __init__(
        self,
        hub: Hub,
        local: Callable[[], Local],
        *,
        send_pair: Callable[[PeerName, bytes], None],
        on_change: Callable[[], None],
        on_measured: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._local = local
        self._send_pair = send_pair
        self._on_change, self._on_measured = on_change, on_measured
        self.worker_up = False
        self.worker_reason = "not-started"
        self.pairs: dict[PeerName, Pair] = {}
        self.direct: dict[PeerName, Direct] = {}
        self._told = Told()
        self._configured: w.Configure | None = None
        self._ids: dict[PeerName, ShortID] = {}
        self._reachable: frozenset[PeerName] = frozenset()
        self.counters: w.Counters | None = None

    # ---- neighbours and peers

    def neighbour_up(self, peer: PeerName, endpoint: Endpoint) -> None:
        """Begin to prove the direct path to a neighbour, or go on over its new address."""
        known = self.direct.get(peer)
        if known is not None:
            known.endpoint = endpoint
            return
        self.direct[peer] = Direct(LinkProbe(self._hub.rng), endpoint, since=self._hub.now)

    def neighbour_down(self, peer: PeerName) -> None:
        direct = self.direct.pop(peer, None)
        self._hub.deadlines.set(("probe", peer), None)
        if direct is not None and direct.up:
            self._hub.notify(LinkChanged(peer, False, "connection-lost"))
            self._on_change()

    def sync(
        self, records: Mapping[PeerName, Record], reachable: frozenset[PeerName], routes: Routes
    ) -> None:
        """Bring keys, probes and the worker in line with this view of the mesh."""
        self._reachable = reachable
        own = records.get(self._hub.us)
        self._ids = {
            name: record.short_id
            for name, record in records.items()
            if record.short_id is not None and (name in reachable or name == self._hub.us)
        }
        if own is None or own.short_id is None or not self.worker_up:
            return
        self._configure(own.short_id)
        self._tell(self._wanted(records, routes))
        self._sync_pairs(records)
        self._start_probes()

    def handle_timer(self, key: tuple[object, ...]) -> None:
        match key:
            case ("pair", PeerName() as peer) if (pair := self.pairs.get(peer)) is not None:
                self._perform_pair(peer, pair, pair.keys.handle_timer(self._hub.now))
            case ("probe", PeerName() as peer) if (direct := self.direct.get(peer)) is not None:
                self._perform_probe(peer, direct, direct.probe.handle_timer(self._hub.now))
            case _:
                return

    def receive_pair(self, peer: PeerName, message: bytes) -> None:
        """A message of the end-to-end handshake. Ignored until we know whom it is from."""
        if (pair := self.pairs.get(peer)) is not None:
            self._perform_pair(peer, pair, pair.keys.receive(message, self._hub.now))
        else:
            self._hub.count("pair-not-ready")

    def passwords_changed(self) -> None:
        """Use the new ring from the next epoch on."""
        for pair in self.pairs.values():
            pair.keys.use(self._local())

    # ---- the worker

    def worker_started(self) -> None:
        self.worker_up, self.worker_reason = True, "running"
        self._told, self._configured = Told(), None
        for peer, direct in self.direct.items():
            direct.probe = LinkProbe(self._hub.rng)
            direct.running = False
            self._down(peer, direct, "worker-restarted")

    def worker_lost(self, reason: str) -> None:
        """The worker died: no frame crosses, and none of the keys it had is used again."""
        self.worker_up, self.worker_reason = False, reason
        self._hub.count(reason)
        for peer, direct in self.direct.items():
            self._hub.deadlines.set(("probe", peer), None)
            direct.running = False
            self._down(peer, direct, reason)
        for peer in list(self.pairs):
            self._drop_pair(peer)

    def receive_worker(self, message: w.FromWorker) -> None:
        names = {short_id: name for name, short_id in self._ids.items()}
        match message:
            case w.EpochInstalled(short_id, epoch):
                if (peer := names.get(short_id)) is not None and peer in self.pairs:
                    pair = self.pairs[peer]
                    self._perform_pair(peer, pair, pair.keys.installed(epoch, self._hub.now))
            case w.ProbeReplied(short_id, nonce, size, rtt_us):
                if (peer := names.get(short_id)) is not None and peer in self.direct:
                    direct = self.direct[peer]
                    effects = direct.probe.replied(nonce, size, rtt_us / 1e6, self._hub.now)
                    self._perform_probe(peer, direct, effects)
            case w.TooBig(short_id, size):
                if (peer := names.get(short_id)) is not None and peer in self.direct:
                    direct = self.direct[peer]
                    self._perform_probe(peer, direct, direct.probe.too_big(size, self._hub.now))
            case w.ProbeSeen(short_id, endpoint):
                self._moved(names.get(short_id), endpoint)
            case w.Counters():
                self.counters = message
            case _:
                return

    # ---- inside: what the worker should know

    def _configure(self, short_id: ShortID) -> None:
        hub = self._hub
        wanted = w.Configure(short_id, hub.us, hub.config.mtu, hub.encrypted)
        if wanted != self._configured:
            self._configured = wanted
            hub.emit(TellWorker(wanted))

    def _wanted(self, records: Mapping[PeerName, Record], routes: Routes) -> Told:
        ids, us = self._ids, self._hub.us
        told = Told()
        for name, short_id in ids.items():
            children = tuple(ids[c] for c in routes.broadcast(name) if c in ids)
            if children:
                told.trees[short_id] = children
            if name == us:
                continue
            told.peers[short_id] = (name, records[name].mtu)
            if (direct := self.direct.get(name)) is not None:
                told.neighbours[short_id] = (direct.endpoint, direct.segment)
            route = routes.unicast.get(name)
            if route is not None and route.next_hop in ids:
                told.routes[short_id] = (ids[route.next_hop], route.mtu or FIRST_SEGMENT)
        return told

    def _tell(self, wanted: Told) -> None:
        told, tell = self._told, self._tell_one
        for short_id, (name, _) in told.peers.items():
            if wanted.peers.get(short_id, (None, 0))[0] != name:
                tell(w.DropPeer(short_id))
                told.neighbours.pop(short_id, None)
                told.routes.pop(short_id, None)
                self._drop_pair(name)
        for short_id in told.neighbours.keys() - wanted.neighbours.keys():
            tell(w.DropNeighbour(short_id))
        for short_id in told.routes.keys() - wanted.routes.keys():
            tell(w.DropRoute(short_id))
        for short_id in told.trees.keys() - wanted.trees.keys():
            tell(w.SetTree(short_id, ()))
        for short_id, peer in wanted.peers.items():
            if told.peers.get(short_id) != peer:
                tell(w.SetPeer(short_id, *peer))
        for short_id, neighbour in wanted.neighbours.items():
            if told.neighbours.get(short_id) != neighbour:
                tell(w.SetNeighbour(short_id, *neighbour))
        for short_id, route in wanted.routes.items():
            if told.routes.get(short_id) != route:
                tell(w.SetRoute(short_id, *route))
        for short_id, children in wanted.trees.items():
            if told.trees.get(short_id) != children:
                tell(w.SetTree(short_id, children))
        self._told = wanted

    def _tell_one(self, message: w.ToWorker) -> None:
        self._hub.emit(TellWorker(message))

    # ---- inside: keys

    def _sync_pairs(self, records: Mapping[PeerName, Record]) -> None:
        for peer in self.pairs.keys() - self._reachable:
            self._drop_pair(peer)
        if not self._hub.encrypted:
            return
        for peer in sorted(self._reachable):
            if peer not in self._ids:
                continue
            uid, short_id = records[peer].uid, self._ids[peer]
            pair = self.pairs.get(peer)
            if pair is not None and (pair.uid, pair.short_id) != (uid, short_id):
                self._drop_pair(peer)
                pair = None
            if pair is None:
                hub = self._hub
                keys = PairKeys(
                    self._local(),
                    peer,
                    offer=hub.config.ciphers,
                    kem=hub.kem,
                    entropy=hub.entropy,
                    rng=hub.rng,
                )
                pair = self.pairs[peer] = Pair(keys, uid, short_id)
                self._perform_pair(peer, pair, keys.start(hub.now))

    def _drop_pair(self, peer: PeerName) -> None:
        if self.pairs.pop(peer, None) is not None:
            self._hub.deadlines.set(("pair", peer), None)

    def _perform_pair(self, peer: PeerName, pair: Pair, effects: list[PairEffect]) -> None:
        hub = self._hub
        for effect in effects:
            match effect:
                case SendPair(message):
                    self._send_pair(peer, message)
                case InstallEpoch(keys):
                    self._tell_one(
                        w.InstallEpoch(
                            pair.short_id,
                            keys.epoch,
                            keys.rx_key,
                            keys.tx_key,
                            keys.rx_tag,
                            keys.tx_tag,
                            keys.cipher,
                        )
                    )
                case ActivateEpoch(epoch):
                    self._tell_one(w.ActivateEpoch(pair.short_id, epoch))
                case RetireEpoch(epoch):
                    self._tell_one(w.RetireEpoch(pair.short_id, epoch))
                case Arm(deadline):
                    hub.deadlines.set(("pair", peer), deadline)
                case Notify(event):
                    self._pair_happened(pair, event)

    def _pair_happened(self, pair: Pair, event: PairReady | PairFailed) -> None:
        match event:
            case PairReady(epoch, cipher):
                pair.epoch, pair.ready_at, pair.reason = epoch, self._hub.now, "ready"
                pair.cipher = cipher
                self._start_probes()
            case PairFailed(reason):
                pair.reason = reason
                self._hub.count(reason)

    # ---- inside: probes

    def _start_probes(self) -> None:
        """Start the probe of every direct path whose datagrams could be understood."""
        if not self.worker_up:
            return
        for peer, direct in self.direct.items():
            if direct.running or self._ids.get(peer) not in self._told.neighbours:
                continue
            if self._hub.encrypted:
                pair = self.pairs.get(peer)
                if pair is None or pair.epoch is None:
                    direct.reason = "no-keys" if pair is None else pair.reason
                    continue
            direct.running = True
            self._perform_probe(peer, direct, direct.probe.start(self._hub.now))

    def _perform_probe(self, peer: PeerName, direct: Direct, effects: list[LinkEffect]) -> None:
        hub = self._hub
        for effect in effects:
            match effect:
                case SendProbe(nonce, size):
                    if self.worker_up and peer in self._ids:
                        self._tell_one(w.Probe(self._ids[peer], nonce, size))
                case Arm(deadline):
                    hub.deadlines.set(("probe", peer), deadline)
                case Notify(event):
                    self._probe_happened(peer, direct, event)

    def _probe_happened(
        self,
        peer: PeerName,
        direct: Direct,
        event: LinkUp | LinkDown | SegmentChanged | Measured,
    ) -> None:
        match event:
            case LinkUp(rtt, segment):
                direct.up, direct.rtt, direct.segment = True, rtt, segment
                direct.reason, direct.since = "probes-answered", self._hub.now
                self._hub.notify(LinkChanged(peer, True, direct.reason))
            case LinkDown(reason):
                self._down(peer, direct, reason)
            case SegmentChanged(segment):
                direct.segment = segment
            case Measured(rtt):
                direct.rtt = rtt
                self._on_measured()
                return
        self._on_change()

    def _down(self, peer: PeerName, direct: Direct, reason: str) -> None:
        direct.reason = reason
        if direct.up:
            direct.up, direct.since = False, self._hub.now
            self._hub.notify(LinkChanged(peer, False, reason))
            self._on_change()

    def _moved(self, peer: PeerName | None, endpoint: Endpoint) -> None:
        """A neighbour's authenticated datagrams come from elsewhere: it sits behind a NAT."""
        if peer is None or (direct := self.direct.get(peer)) is None:
            return
        if direct.endpoint != endpoint:
            direct.endpoint = endpoint
            self._on_change()
