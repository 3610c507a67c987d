"""The kernel's paths: which neighbours it may serve, how well they are, and what it is told.

Who drives it: ``mesh.router.links``, with the same view that the worker is told by. One
``FastPath`` a neighbour; heartbeats travel as control frames over the very tunnel frames take.
The tables are told by difference. What an earlier daemon told is taken for told.

A peer that neither overlay reaches keeps the way it had: its daemon, or a relay's, may be away
for a while, and the kernels go on without them (docs/protocol.md 14.6).

Invariants: nothing is told to the kernel before it was configured with our short ID; a path is
``well`` only while there is no obstacle and its heartbeats are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.link.datapath import SLEEVE, Config, Tables
from mesh.link.heartbeat import Heartbeat, HeartbeatEffect, SendHeartbeat, Unwell, Well
from mesh.link.overlay import End, Obstacle, Overlay, is_within, obstacle
from mesh.names import PeerName, PeerUID, ShortID
from mesh.router.choices import Choice, Path
from mesh.router.effects import ConfigureKernel, ForgetLearned, SendControl, Steer
from mesh.router.events import KernelPathChanged
from mesh.router.fastpath import FastPath
from mesh.router.from_datapath import (
    ControlReceived,
    DatapathLost,
    DatapathStarted,
    FromDatapath,
    ReportReceived,
)
from mesh.router.grouping import plant_groups
from mesh.router.hub import Hub
from mesh.router.onward import Onward
from mesh.router.snooper import Snooper
from mesh.router.steering import (
    Way,
    held_over,
    lost_names,
    name_pods,
    steer,
    went_to_kernel,
)
from mesh.topology.attachments import Attachments
from mesh.topology.record import Record
from mesh.topology.routes import Routes, carried
from mesh.wire.heartbeat import ANSWER, QUESTION, Beat

NOT_STARTED = "not-started"
"""Why there is no fast path yet, where one is wanted."""

GRACE = 60.0
"""Seconds that ways of an earlier daemon are kept for peers that we have not heard of yet."""

DEVICE_MTU = 65_000
"""Of the kernel's port on the bridge: what is too big for the underlay it answers with ICMP, while
a bridge drops what is too big for its port and tells nobody."""

PATIENCE = 5.0
"""Seconds that a held way is kept although the sleeve reaches the peer again."""

UNLEARNING = 60.0
"""Seconds after a peer went to the kernel in which addresses behind the sleeve are looked after."""

TRUSTS, PORT = "trusts", "vxlan-port"
"""Features of the hello: "yes" where we trust the subnet of the other end's address; our port."""


class Fastdp:
    """``problem``: why there is no fast path here at all; None when it works."""

    def __init__(
        self,
        hub: Hub,
        attachments: Attachments,
        on_change: Callable[[], None],
        on_told: Callable[[], None],
    ) -> None:
        self._hub, self._attachments, self._on_change = hub, attachments, on_change
        self.snooper = Snooper(hub, attachments, on_told)
        self.problem: str | None = self.unwanted or NOT_STARTED
        self.paths: dict[PeerName, FastPath] = {}
        self.ways: Mapping[PeerName, Way] = {}
        """By whom peers are reached in the kernel now."""
        self.told = Tables()
        self._held: set[ShortID] = set()
        self._patience: dict[ShortID, Instant] = {}
        """Until when a way that was held is kept although the sleeve reaches the peer."""
        self._onward = Onward()
        self._configured: Config | None = None
        self._names: dict[ShortID, PeerName] = {}
        self._ids: dict[PeerName, ShortID] = {}
        self._told_for: dict[ShortID, PeerName] = {}
        self._started_at = Instant(0.0)
        self._unlearning_until = Instant(0.0)

    @property
    def unwanted(self) -> str | None:
        """Why no fast path is wanted here, None when one is. Where everything is sealed it would
        only stand between the bridge and the sleeve."""
        config = self._hub.config
        if not config.fastdp:
            return Obstacle.OFF
        return Obstacle.ENCRYPTED if self._hub.encrypted and not config.trusted else None

    # ---- the datapath

    def received(self, event: FromDatapath) -> bool:
        """What the datapath says; whether there is one, or none, since then."""
        match event:
            case ControlReceived(source, payload):
                self.receive(source, payload)
                return False
            case ReportReceived(frame):
                self.snooper.heard(frame)
                return False
            case DatapathStarted(tables):
                self.started(tables)
            case DatapathLost(reason):
                self.lost(reason)
        return True

    def started(self, tables: Tables) -> None:
        """There is a fast path, and this is what it does already."""
        self.problem, self._started_at = None, self._hub.now
        self.told, self._configured, self._told_for = tables, None, {}
        # The sleeve may have been proven while the kernel's path was not open to be.
        until = Instant(self._hub.now + PATIENCE)
        self._patience = {to: until for to, via in tables.routes.items() if via != SLEEVE}
        self.snooper.start()
        self._on_change()

    def lost(self, reason: str) -> None:
        """It does not work, or not any more."""
        if self.problem == reason:
            return
        self.problem = reason
        self._hub.count(reason)
        self.snooper.stop()
        self.ways = {}
        for peer in self.paths:
            self._stop(peer)
        self._on_change()

    # ---- neighbours

    @property
    def overlays(self) -> tuple[str, ...]:
        """That frames can come to us by, as our record says it. Before we know we say that they
        can: an earlier daemon's kernel may be at it, and who asks it finds out."""
        return ("fastdp", "sleeve") if self.problem in (None, NOT_STARTED) else ("sleeve",)

    def features(self, host: str) -> dict[str, str]:
        """What we say in a handshake with who is at that address."""
        config, said = self._hub.config, {"overlays": " ".join(self.overlays)}
        if config.fastdp:
            said[TRUSTS] = "yes" if is_within(host, config.trusted) else "no"
            said[PORT] = str(config.vxlan_port)
        return said

    def connected(
        self, peer: PeerName, host: str, uid: PeerUID, features: Mapping[str, str]
    ) -> None:
        """A connection with a neighbour: what it may be, and what it thinks of our address.

        A path whose heartbeats are answered stays as it is while its peer starts again: the kernel
        there never stopped. One that fell silent with its peer's daemon has nothing to prove.
        """
        trusts = features.get(TRUSTS) == "yes"
        port = features.get(PORT, "")
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
        known = self.paths.get(peer)
        if known is not None:
            same = (known.host, known.trusts, known.port) == (host, trusts, number)
            if same and (known.well or known.uid == uid):
                known.restarted |= known.uid != uid
                known.connected, known.uid = True, uid
                return
            self._stop(peer)
        self.paths[peer] = FastPath(host, uid, trusts, number, since=self._hub.now)

    def disconnected(self, peer: PeerName) -> None:
        if (path := self.paths.get(peer)) is not None:
            path.connected = False
            self._let_go_idle(peer, path)

    def is_well(self, peer: PeerName) -> bool:
        path = self.paths.get(peer)
        return self.problem is None and path is not None and path.well

    @property
    def is_holding(self) -> bool:
        """Some ways are kept because nothing better is known: they end when they are looked at."""
        return bool(self._held)

    # ---- the view

    def sync(
        self,
        records: Mapping[PeerName, Record],
        ids: Mapping[PeerName, ShortID],
        routes: Routes,
        by_sleeve: AbstractSet[PeerName],
        segments: Mapping[PeerName, int],
    ) -> None:
        """Judge neighbours anew, and tell the kernel what follows from this view.

        ``ids``: of us and of whom we reach; ``by_sleeve``: whom frames reach by the sleeve.
        ``segments``: datagrams that direct paths were found to carry; the tunnel takes the same
        way, so they bound what is asked of it.
        """
        hub = self._hub
        self._ids = dict(ids)
        self._names = {short_id: name for name, short_id in ids.items()}
        for peer, segment in segments.items():
            if peer in self.paths and (known := carried(segment)) is not None:
                self.paths[peer].carries = known
        self._judge(records)
        own = ids.get(hub.us)
        if self.problem is not None or own is None:
            self.ways = {}
            return
        config = Config(own, DEVICE_MTU)
        if config != self._configured:
            self._configured = config
            hub.emit(ConfigureKernel(config))
        hosts = {p: f.host for p, f in self.paths.items() if f.obstacle is None and p in ids}
        wanted, ways = steer(hub.us, ids, routes, hosts, by_sleeve - self._better_held(by_sleeve))
        in_grace = hub.now < self._started_at + GRACE
        named = {r.short_id: name for name, r in records.items() if r.short_id is not None}
        kept = {s for s in self.told.routes if in_grace or s in named}
        wanted.mtus = {ids[p]: self._mtu(p, way, routes) for p, way in ways.items()}
        name_pods(wanted, self._attachments.pods, ids)
        self._held = held_over(self.told, wanted, kept, own)
        reached = {ids[peer] for peer in by_sleeve}
        until = Instant(hub.now + PATIENCE)
        self._patience = {s: t for s, t in self._patience.items() if hub.now < t} | dict.fromkeys(
            self._held - reached, until
        )
        for short_id in self._held & named.keys():
            via = wanted.routes[short_id]
            ways[named[short_id]] = Way(named.get(via), 1 if via == short_id else 2, held=True)
        if self._held:  # nobody knows better what leads to them
            wanted.groups = {k: t for k, t in self.told.groups.items() if k[0] in wanted.trees}
        else:
            listening = self._attachments.groups
            plant_groups(wanted, hub.us, ids, routes, ways, by_sleeve, listening)
        if not hub.encrypted:
            wanted.onward = self._onward.serve(self.told, wanted, hub.now)
            hub.deadlines.set(("onward",), self._onward.due)
        self._tell(wanted)
        self.ways = ways

    def _mtu(self, peer: PeerName, way: Way, routes: Routes) -> int:
        """Octets of the largest packet that may go to this peer's pods."""
        if way.next_hop == peer:
            return self.paths[peer].mtu
        return min(routes.kernel[peer].mtu, self._hub.mtu)

    def _better_held(self, by_sleeve: AbstractSet[PeerName]) -> set[PeerName]:
        """Peers that the kernel serves and whose way is kept although the sleeve reaches them.

        A path whose heartbeats are answered outlives its connection. And after a start the sleeve
        is proven about as soon as the kernel's path: a change there and back costs frames.
        """
        now, told = self._hub.now, self.told.routes
        kept = set()
        for peer in by_sleeve:
            short_id, path = self._ids[peer], self.paths.get(peer)
            if told.get(short_id, SLEEVE) == SLEEVE:
                continue
            if path is not None and path.well and not path.connected:
                self._patience[short_id] = Instant(now + PATIENCE)
            if now < self._patience.get(short_id, now):
                kept.add(peer)
        return kept

    def _tell(self, wanted: Tables) -> None:
        hub, told = self._hub, self.told
        for short_id in lost_names(self._told_for, self._names):
            hub.emit(ForgetLearned(short_id))
        self._told_for |= {s: n for s, n in self._names.items() if s in wanted.routes}
        for gone in self._told_for.keys() - wanted.routes.keys():
            del self._told_for[gone]
        if wanted == told:
            return
        hub.emit(Steer(told, wanted))
        if went_to_kernel(told, wanted):
            hub.emit(ForgetLearned(SLEEVE))
            self._unlearning_until = Instant(hub.now + UNLEARNING)
        self.told = wanted

    def sent_by_sleeve(self, peers: Iterable[PeerName]) -> None:
        """Who was sent frames by the sleeve lately. Whoever is served by the kernel now: its
        addresses were learned behind the sleeve again from what was still under way."""
        hub = self._hub
        if hub.now < self._unlearning_until and any(peer in self.ways for peer in peers):
            hub.emit(ForgetLearned(SLEEVE))

    def _judge(self, records: Mapping[PeerName, Record]) -> None:
        hub = self._hub
        for peer, path in list(self.paths.items()):
            record = records.get(peer)
            found: str | None = None
            if record is None or peer not in self._ids or hub.us not in self._ids:
                found = "no-short-id" if path.connected else "unreachable"
            else:
                ours = End(
                    self.problem is None,
                    is_within(path.host, hub.config.trusted),
                    hub.config.vxlan_port,
                )
                theirs = End("fastdp" in record.overlays, path.trusts, path.port)
                path.mtu = min(hub.mtu, record.mtu, path.carries or record.mtu)
                found = obstacle(ours, theirs, encrypted=hub.encrypted)
            if found is None:
                path.obstacle = None
                if path.heart is None:
                    path.heart = Heartbeat(hub.rng, path.mtu)
                    self._perform(peer, path, path.heart.start(hub.now))
                path.heart.resize(path.mtu)
            elif found != "unreachable" or not path.well:
                path.obstacle = found
                self._stop(peer)
                self._let_go_idle(peer, path)

    # ---- why

    def choice(self, peer: PeerName, way: Way) -> Choice:
        """That frames to this peer go by the kernel, and why that way."""
        now, path = self._hub.now, self.paths.get(peer)
        if way.held:
            path_kind = Path.DIRECT if way.next_hop == peer else Path.RELAYED
            return Choice(Overlay.FASTDP, path_kind, way.next_hop, "held", now)
        if way.next_hop == peer:
            assert path is not None
            after = None if path.answered_at is None else now - path.answered_at
            return Choice(Overlay.FASTDP, Path.DIRECT, peer, path.reason, now, after)
        if path is None:
            reason = "no-connection"
        elif path.well:
            reason = "cheaper-path"
        else:
            reason = path.reason
        return Choice(Overlay.FASTDP, Path.RELAYED, way.next_hop, reason, now)

    def why_not(self, peer: PeerName) -> str:
        """Why frames to this peer do not go by the kernel; asked only where they do not."""
        path = self.paths.get(peer)
        if self.problem == Obstacle.ENCRYPTED and path is not None:
            return path.reason
        if self.problem is not None:
            return self.problem
        if path is None:
            return Obstacle.ENCRYPTED if self._hub.encrypted else "no-kernel-path"
        return "down-at-peer" if path.well else path.reason

    # ---- heartbeats

    def handle_timer(self, key: tuple[object, ...]) -> None:
        match key:
            case ("snoop",):
                self.snooper.handle_timer()
            case ("heart", PeerName() as peer) if (path := self.paths.get(peer)) is not None:
                if path.heart is not None:
                    self._perform(peer, path, path.heart.handle_timer(self._hub.now))
            case _:
                return

    def receive(self, source: ShortID, payload: bytes) -> None:
        """A control frame of a neighbour, by its short ID."""
        hub = self._hub
        peer = self._names.get(source)
        path = None if peer is None else self.paths.get(peer)
        if peer is None or path is None or path.obstacle is not None:
            hub.count("heartbeat-of-a-stranger")
            return
        try:
            beat = Beat.decode(payload)
        except MalformedMessageError as err:
            hub.count(err.reason)
            return
        if beat.kind == QUESTION:
            if path.answers.take(hub.now):
                answer = Beat(ANSWER, beat.nonce, beat.size)
                hub.emit(SendControl(source, answer.encode()))
            else:
                hub.count("too-many-heartbeats")
        elif path.heart is not None:
            path.restarted = False
            self._perform(peer, path, path.heart.answered(beat.nonce, beat.size, hub.now))

    # ---- inside

    def _perform(self, peer: PeerName, path: FastPath, effects: list[HeartbeatEffect]) -> None:
        hub = self._hub
        for effect in effects:
            match effect:
                case SendHeartbeat(nonce, size):
                    if peer in self._ids:
                        beat = Beat(QUESTION, nonce, size).encode()
                        hub.emit(SendControl(self._ids[peer], beat))
                case Arm(deadline):
                    hub.deadlines.set(("heart", peer), deadline)
                case Notify(event):
                    self._happened(peer, path, event)

    def _happened(self, peer: PeerName, path: FastPath, event: Well | Unwell) -> None:
        hub = self._hub
        path.since = hub.now
        match event:
            case Well(_, after):
                path.answered_at = Instant(hub.now - after)
            case Unwell(_, silence):
                path.answered_at = Instant(hub.now - silence)
        if not path.connected and peer in self._ids:
            # Silent together with its daemon, perhaps: the sleeve has to show that it is not.
            self._patience[self._ids[peer]] = Instant(hub.now + PATIENCE)
        hub.notify(KernelPathChanged(peer, path.well, event.reason))
        if isinstance(event, Unwell) and path.restarted:
            self._begin_anew(peer, path)
        self._on_change()
        self._let_go_idle(peer, path)

    def _begin_anew(self, peer: PeerName, path: FastPath) -> None:
        """As with a path that fell before its peer came back: there is nothing to prove. Its way is
        kept as long as that one's, from now on."""
        now = self._hub.now
        path.restarted, path.heart = False, Heartbeat(self._hub.rng, path.mtu)
        if peer in self._ids:
            self._patience[self._ids[peer]] = Instant(now + PATIENCE)
        self._perform(peer, path, path.heart.start(now))

    def _stop(self, peer: PeerName) -> None:
        path = self.paths[peer]
        if path.heart is not None:
            path.heart = None
            self._hub.deadlines.set(("heart", peer), None)
            self._on_change()

    def _let_go_idle(self, peer: PeerName, path: FastPath) -> None:
        """Without a connection a path is kept while it is answered, and no longer."""
        if not path.connected and not path.well and self.paths.get(peer) is path:
            self._stop(peer)
            del self.paths[peer]
