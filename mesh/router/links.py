"""Links: keys per pair of peers, health per direct path, and what the worker must know.

Who drives it: ``mesh.router.router``. The worker is told by difference: what it should know is
computed from topology, routes and probes, compared with what it was told, and only the change is
sent. A restarted worker was told nothing, and gets new keys: the old ones' counters died with it.

Invariants: the worker never gets keys for a short ID it does not know; keys once sent are never
sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mesh.clock import Instant
from mesh.connection.connection import Local
from mesh.effects import Arm, Notify
from mesh.link.epochs import PairKeys
from mesh.link.overlay import Overlay
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
from mesh.router.branches import Branches
from mesh.router.choices import Choice, Choices, Path
from mesh.router.directs import FIRST_SEGMENT, Direct, Directs
from mesh.router.effects import TellWorker
from mesh.router.events import PathChanged
from mesh.router.fastdp import Fastdp
from mesh.router.hub import Hub
from mesh.router.told import Told, difference, dropped
from mesh.router.ways import Way, chosen_way, why
from mesh.topology.record import Record
from mesh.topology.routes import Routes
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher

TRAFFIC_INTERVAL = 1.0
"""Seconds between looks at the worker's counters: which paths carry frames and must be watched."""

TRAFFIC_OCTETS = 1024
"""Octets to a peer within it that are more than neighbour discovery."""


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


class Links:
    def __init__(
        self,
        hub: Hub,
        local: Callable[[], Local],
        fastdp: Fastdp,
        *,
        send_pair: Callable[[PeerName, bytes], None],
        on_change: Callable[[], None],
        on_measured: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._local, self.fastdp = local, fastdp
        self._send_pair, self._on_change = send_pair, on_change
        self.worker_up = False
        self.worker_reason = "not-started"
        self.pairs: dict[PeerName, Pair] = {}
        self._directs = Directs(
            hub, send=self._send_probe, on_change=on_change, on_measured=on_measured
        )
        self.choices = Choices()
        self._told = Told()
        self._branches = Branches()
        self._configured: w.Configure | None = None
        self._ids: dict[PeerName, ShortID] = {}
        self._names: dict[ShortID, PeerName] = {}
        self._reachable: frozenset[PeerName] = frozenset()
        self.counters: w.Counters | None = None

    @property
    def direct(self) -> Mapping[PeerName, Direct]:
        return self._directs.by_peer

    # ---- neighbours and peers

    def neighbour_up(self, peer: PeerName, endpoint: Endpoint, uid: PeerUID) -> None:
        self._directs.connected(peer, endpoint, uid)

    def neighbour_down(self, peer: PeerName, reason: str) -> None:
        self._directs.disconnected(peer, reason)

    def sync(
        self, records: Mapping[PeerName, Record], reachable: frozenset[PeerName], routes: Routes
    ) -> None:
        """Bring keys, probes and the worker in line with this view of the mesh."""
        hub = self._hub
        self._directs.keep_orphans(records.keys())
        # An answered path reaches its peer, whatever the mesh has not heard of it yet.
        self._reachable = reachable | (self._directs.up & records.keys())
        own = records.get(hub.us)
        self._ids = {
            name: record.short_id
            for name, record in records.items()
            if record.short_id is not None and (name in self._reachable or name == hub.us)
        }
        self._names = {short_id: name for name, short_id in self._ids.items()}
        ids = self._ids
        chosen = {p: self._chosen(p, records[p], routes) for p in records if p != hub.us}
        by_sleeve = {p for p in ids if p != hub.us and self._by_sleeve(p, chosen[p])}
        self.fastdp.sync(records, ids, routes, by_sleeve, self._directs.segments)
        if own is not None and own.short_id is not None and self.worker_up:
            self._configure(own.short_id)
            self._tell(self._wanted(records, routes, chosen))
            self._sync_pairs(records)
            self._start_probes()
        self._choose(chosen)

    def handle_timer(self, key: tuple[object, ...]) -> None:
        match key:
            case ("pair", PeerName() as peer) if (pair := self.pairs.get(peer)) is not None:
                self._perform_pair(peer, pair, pair.keys.handle_timer(self._hub.now))
            case ("probe", PeerName() as peer):
                self._directs.handle_timer(peer)
            case ("traffic",) if self.worker_up:
                self._tell_one(w.GetCounters())
                self._look_at_traffic_later()
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
        self._told, self._configured, self.counters = Told(), None, None
        self._branches.clear()
        self._look_at_traffic_later()
        self._directs.worker_restarted()

    def worker_lost(self, reason: str) -> None:
        """The worker died: no frame crosses, and none of the keys it had is used again."""
        self.worker_up, self.worker_reason = False, reason
        self._hub.count(reason)
        self._directs.worker_lost(reason)
        for peer in list(self.pairs):
            self._drop_pair(peer)

    def receive_worker(self, message: w.FromWorker) -> None:
        names = self._names
        match message:
            case w.EpochInstalled(short_id, epoch):
                if (peer := names.get(short_id)) is not None and peer in self.pairs:
                    pair = self.pairs[peer]
                    self._perform_pair(peer, pair, pair.keys.installed(epoch, self._hub.now))
            case w.ProbeReplied(short_id, nonce, size, rtt_us) if short_id in names:
                self._directs.replied(names[short_id], nonce, size, rtt_us / 1e6)
            case w.TooBig(short_id, size) if short_id in names:
                self._directs.too_big(names[short_id], size)
            case w.ProbeSeen(short_id, endpoint) if short_id in names:
                self._directs.moved(names[short_id], endpoint)
            case w.Counters():
                before, self.counters = self.counters, message
                self._traffic(before, message)
            case _:
                return

    # ---- inside: what the worker should know

    def _configure(self, short_id: ShortID) -> None:
        hub = self._hub
        wanted = w.Configure(short_id, hub.us, hub.mtu, hub.encrypted)
        if wanted != self._configured:
            self._configured = wanted
            hub.emit(TellWorker(wanted))

    def _wanted(
        self,
        records: Mapping[PeerName, Record],
        routes: Routes,
        chosen: Mapping[PeerName, Way],
    ) -> Told:
        ids, us, kernel = self._ids, self._hub.us, self.fastdp.ways
        told = Told()
        lone = sorted((self._directs.up & ids.keys()) - routes.unicast.keys() - kernel.keys())
        for name, short_id in ids.items():
            children = tuple(ids[c] for c in routes.broadcast(name) if c in ids)
            children += tuple(ids[peer] for peer in lone if peer != name)
            if children:
                told.trees[short_id] = children
            if name == us:
                continue
            told.peers[short_id] = (name, records[name].mtu, name in kernel)
            if (direct := self.direct.get(name)) is not None:
                told.neighbours[short_id] = (direct.endpoint, direct.segment)
            path, next_hop = chosen[name]
            if path is Path.DIRECT and direct is not None:
                told.routes[short_id] = (short_id, direct.segment)
            elif path is Path.RELAYED and next_hop in ids:
                route = routes.unicast[name]
                told.routes[short_id] = (ids[next_hop], route.mtu or FIRST_SEGMENT)
        told.trees = self._branches.serve(told.trees, self._names.keys(), self._hub.now)
        self._hub.deadlines.set(("branches",), self._branches.due)
        return told

    def _chosen(self, peer: PeerName, record: Record, routes: Routes) -> Way:
        return chosen_way(
            self._hub.us, peer, record, routes.unicast.get(peer), self.direct.get(peer)
        )

    def _by_sleeve(self, peer: PeerName, chosen: Way) -> bool:
        """Whether frames of a pod reach this peer by the sleeve."""
        return self.worker_up and self._key_problem(peer) is None and chosen[0] is not Path.DOWN

    def _tell(self, wanted: Told) -> None:
        for message in difference(self._told, wanted):
            self._tell_one(message)
        for name in dropped(self._told, wanted).values():
            self._drop_pair(name)
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
                if pair.epoch is None:
                    self._on_change()  # frames can cross now: a choice to note
                pair.epoch, pair.ready_at, pair.reason = epoch, self._hub.now, "ready"
                pair.cipher = cipher
                self._start_probes()
            case PairFailed(reason):
                pair.reason = reason
                self._hub.count(reason)

    # ---- inside: probes and traffic

    def _start_probes(self) -> None:
        if self.worker_up:
            self._directs.start(self._why_not)

    def _why_not(self, peer: PeerName) -> str | None:
        """Why datagrams to this neighbour could not be understood; "" for what will pass soon."""
        if self._ids.get(peer) not in self._told.neighbours:
            return ""
        return self._key_problem(peer)

    def _send_probe(self, peer: PeerName, nonce: int, size: int) -> None:
        if self.worker_up and peer in self._ids:
            self._tell_one(w.Probe(self._ids[peer], nonce, size))

    def traffic_of(self, peer: PeerName) -> w.PeerCounters | None:
        """What the worker counted of a peer when it was last asked."""
        counted = self.counters.peers if self.counters is not None else ()
        short_id = self._ids.get(peer)
        return next((entry for entry in counted if entry.short_id == short_id), None)

    def drops_of(self, peer: PeerName) -> dict[str, int]:
        """What the worker dropped that was this peer's, by reason."""
        counted = self.counters.peer_drops if self.counters is not None else ()
        short_id = self._ids.get(peer)
        return {reason: count for whose, reason, count in counted if whose == short_id}

    def _look_at_traffic_later(self) -> None:
        self._hub.deadlines.set(("traffic",), Instant(self._hub.now + TRAFFIC_INTERVAL))

    def _traffic(self, before: w.Counters | None, after: w.Counters) -> None:
        """Have the paths watched closely that frames went over since the last look."""
        if before is None:
            return
        sent = {entry[0]: entry[1] for entry in before.peers}
        self.fastdp.sent_by_sleeve(
            self._names[entry.short_id]
            for entry in after.peers
            if entry.short_id in self._names and entry.tx_octets > sent.get(entry.short_id, 0)
        )
        routes = self._told.routes
        hops = {
            routes[entry[0]][0]
            for entry in after.peers
            if entry[0] in routes and entry[1] - sent.get(entry[0], 0) >= TRAFFIC_OCTETS
        }
        if after.relayed > before.relayed:
            hops |= self._told.neighbours.keys()  # the counters do not say whose it was
        for hop in sorted(hops):
            if hop in self._names:
                self._directs.traffic(self._names[hop])

    # ---- inside: choices

    def _choose(self, chosen: Mapping[PeerName, Way]) -> None:
        """Note by which path each peer is reached from now on, and why."""
        self.choices.keep(chosen.keys())
        for peer, way in chosen.items():
            current, kernel = self.choices.current(peer), self.fastdp.ways.get(peer)
            path, next_hop, _ = self._passable(peer, way)
            if kernel is None and (
                path is Path.DOWN  # it was never reached
                if current is None
                else (current.overlay, current.path, current.next_hop)
                == (Overlay.SLEEVE, path, next_hop)
            ):
                continue
            made = self._choice(peer, way)
            if self.choices.choose(peer, made):
                self._hub.notify(
                    PathChanged(
                        peer, made.path, made.next_hop, made.reason, made.overlay, made.not_kernel
                    )
                )

    def choice(self, peer: PeerName, records: Mapping[PeerName, Record], routes: Routes) -> Choice:
        """How frames reach a peer now, and why that way."""
        return self._choice(peer, self._chosen(peer, records[peer], routes))

    def _choice(self, peer: PeerName, chosen: Way) -> Choice:
        now, direct = self._hub.now, self.direct.get(peer)
        if (way := self.fastdp.ways.get(peer)) is not None:
            return self.fastdp.choice(peer, way)
        path, next_hop, problem = self._passable(peer, chosen)
        reason = why(path, problem, direct)
        after = None
        told = direct is not None and (path is Path.DIRECT or not direct.up)
        if told and direct is not None and direct.answered_at is not None:
            after = now - direct.answered_at
        not_kernel = self.fastdp.why_not(peer)
        return Choice(Overlay.SLEEVE, path, next_hop, reason, now, after, not_kernel)

    def _passable(self, peer: PeerName, chosen: Way) -> tuple[Path, PeerName | None, str | None]:
        """The way to a peer by sleeve if frames may take it now, and what keeps them from it."""
        problem = "unreachable" if peer not in self._reachable else self._key_problem(peer)
        return (*chosen, None) if problem is None else (Path.DOWN, None, problem)

    def _key_problem(self, peer: PeerName) -> str | None:
        pair = self.pairs.get(peer)
        if not self._hub.encrypted or (pair is not None and pair.epoch is not None):
            return None
        return "no-keys" if pair is None else pair.reason
