"""The router: every pure machine of a peer, composed into one.

Who drives it: ``mesh.drivers.mesh`` in production, ``tests.sim`` under a simulated clock and
network. Every input returns the effects it caused, in order; nothing happens between inputs.

    streams, datagrams, worker, timer ──> Router ──> writes, datagrams, worker, one deadline
                                            │
              Neighbours (connections) ── Liveness ── Links (keys, probes, worker)
                        │                                │
                     Gossip ── Topology ── Routes ───────┘

Invariants: nothing a peer sends raises; a bad message is counted under its reason and the
connection it came on stays; after ``shutdown`` there are no more effects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.connection.reasons import Refusal
from mesh.crypto.identity import Identity
from mesh.crypto.kem import Kem
from mesh.crypto.password import PasswordRing
from mesh.effects import Arm
from mesh.errors import MisuseError
from mesh.gossip.channel import Channel
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
from mesh.router.effects import PersistShortID, RouterEffect
from mesh.router.events import CloneSuspected, PeerGone, PeersChanged, UnicastReceived
from mesh.router.fastdp import Fastdp
from mesh.router.from_datapath import FromDatapath
from mesh.router.hub import Hub, RouterConfig
from mesh.router.inbox import Inbox
from mesh.router.links import Links
from mesh.router.neighbours import Neighbours
from mesh.router.pace import COLLECT_INTERVAL, COST_INTERVAL, SETTLE, Pace
from mesh.router.rumours import Rumours
from mesh.router.status import RouterStatus, router_status
from mesh.router.unicast import Unicasts
from mesh.router.view import edges, strangers
from mesh.router.vigil import Vigil
from mesh.topology.attachments import CHANNEL as ATTACHMENTS
from mesh.topology.attachments import Attachments, Pod
from mesh.topology.routes import Routes, compute
from mesh.topology.topology import CHANNEL as TOPOLOGY
from mesh.topology.topology import Topology
from mesh.wire.worker import FromWorker

if TYPE_CHECKING:
    from random import Random

PAIR_CHANNEL = "pair"
"""Unicast channel of the end-to-end handshakes."""


class Router:
    """One peer of the mesh. See ``mesh.router.effects`` for what its driver must do."""

    def __init__(
        self,
        config: RouterConfig,
        *,
        identity: Identity,
        uid: PeerUID,
        passwords: PasswordRing,
        kem: Kem,
        entropy: Callable[[int], bytes],
        rng: Random,
    ) -> None:
        self.hub = hub = Hub(config, identity, uid, passwords, kem, entropy, rng)
        self.topology = Topology(
            identity,
            uid,
            config.nickname,
            rng,
            short_id_hint=config.short_id,
            program=config.program,
            mtu=config.mtu,
        )
        self.attachments = Attachments(identity, uid)
        self.fastdp = Fastdp(hub, self.attachments, self._edges_changed, self._attachments_changed)
        self.topology.overlays = self.fastdp.overlays
        self.neighbours = Neighbours(
            hub,
            self.fastdp.features,
            on_up=self._neighbour_up,
            on_down=self._neighbour_down,
            on_message=lambda peer, data: self.inbox.receive(peer, data),  # noqa: PLW0108  # later
        )
        self.rumours = Rumours(
            hub, self.neighbours, lambda: self.topology.records, on_change=self._gossip_changed
        )
        self.rumours.engine.register(self.topology)
        self.rumours.engine.register(self.attachments)
        self.vigil = Vigil(hub, self.neighbours, lambda: self.topology.records)
        self.links = Links(
            hub,
            self.neighbours.local,
            self.fastdp,
            send_pair=self._send_pair,
            on_change=self._edges_changed,
            on_measured=self._measured,
        )
        self.unicasts = Unicasts(
            hub,
            self.neighbours,
            records=lambda: self.topology.records,
            next_hop=lambda dst: self.routes.control_unicast.get(dst),  # noqa: PLW0108  # later
            deliver=self._unicast,
        )
        self.inbox = Inbox(
            hub,
            self.neighbours,
            self.vigil,
            gossip=self.rumours.receive,
            unicast=self.unicasts.receive,
        )
        self.routes: Routes = compute(self.topology.records, hub.us)
        self.reachable: frozenset[PeerName] = frozenset()
        self._pace = Pace()
        self._armed: Instant | None = None
        self._short_id: ShortID | None = config.short_id
        self._clone_told = False
        self._running = False

    # ---- set-up

    def register(self, channel: Channel) -> None:
        """Add a gossip channel; before ``start``."""
        if self._running:
            raise MisuseError("register() after start()")
        self.rumours.engine.register(channel)

    def start(self, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self._running = True
        self.topology.update(edges=(), now=now)
        self._keep_short_id()
        self._soon("collect", COLLECT_INTERVAL)
        self.rumours.handle_timer()
        if self.hub.config.targets:
            self.neighbours.perform_maker(
                self.neighbours.maker.connect(self.hub.config.targets, now)
            )
        return self._finish()

    # ---- inputs from the network

    def accepted(self, conn: int, remote: Endpoint, now: Instant) -> list[RouterEffect]:
        """A peer connected to us; ``conn`` is the driver's number for the stream."""
        self.hub.now = now
        self.neighbours.accepted(conn, remote)
        return self._finish()

    def dialled(
        self, conn: int, target: Target, remote: Endpoint, now: Instant
    ) -> list[RouterEffect]:
        self.hub.now = now
        self.neighbours.dialled(conn, target, remote)
        return self._finish()

    def dial_failed(self, target: Target, reason: str, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.neighbours.dial_failed(target, reason)
        return self._finish()

    def receive_stream(self, conn: int, data: bytes, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.neighbours.receive(conn, data)
        return self._finish()

    def stream_closed(self, conn: int, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.neighbours.closed(conn)
        return self._finish()

    def stream_paused(self, conn: int, now: Instant) -> list[RouterEffect]:
        """The stream's buffer is full: gossip for this neighbour merges until it is resumed."""
        self.hub.now = now
        if (peer := self.neighbours.paused(conn, True)) is not None:
            self.rumours.engine.paused(peer)
        return self._finish()

    def stream_resumed(self, conn: int, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        if (peer := self.neighbours.paused(conn, False)) is not None:
            self.rumours.perform(self.rumours.engine.resumed(peer, now))
        return self._finish()

    def receive_datagram(self, source: Endpoint, data: bytes, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.vigil.receive(data)
        return self._finish()

    # ---- inputs from the worker

    def worker_started(self, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.links.worker_started()
        self._routes_soon()
        return self._finish()

    def worker_lost(self, reason: str, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.links.worker_lost(reason)
        return self._finish()

    def receive_worker(self, message: FromWorker, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.links.receive_worker(message)
        return self._finish()

    # ---- inputs from the kernel's fast path

    def receive_datapath(self, event: FromDatapath, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        if self.fastdp.received(event):
            self.topology.overlays = self.fastdp.overlays
            self._routes_soon()
        return self._finish()

    # ---- time

    def handle_timer(self, now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        for key in self.hub.deadlines.due(now):
            match key[0]:
                case "conn" | "unread" | "maker":
                    self.neighbours.handle_timer(key)
                case "live":
                    self.vigil.handle_timer(key)
                case "pair" | "probe" | "traffic":
                    self.links.handle_timer(key)
                case "heart" | "snoop":
                    self.fastdp.handle_timer(key)
                case "gossip":
                    self.rumours.handle_timer()
                case "edges":
                    self._publish_edges()
                case "routes":
                    self._recompute()
                case "branches" | "onward":
                    self.links.sync(self.topology.records, self.reachable, self.routes)
                case "collect":
                    self._collect()
                case _:
                    raise MisuseError(f"nobody owns the deadline {key}")
        self._armed = None
        return self._finish()

    # ---- orders

    def connect(self, targets: tuple[Target, ...], now: Instant) -> list[RouterEffect]:
        self.hub.now = now
        self.neighbours.perform_maker(self.neighbours.maker.connect(targets, now))
        return self._finish()

    def forget(self, targets: tuple[Target, ...], now: Instant) -> list[RouterEffect]:
        """Stop dialling these addresses, and close the connections that came of them."""
        self.hub.now = now
        self.neighbours.perform_maker(self.neighbours.maker.forget(targets, now))
        for conn, stream in list(self.neighbours.streams.items()):
            if stream.target in targets:
                self.neighbours.close(conn, Refusal.FORGOTTEN)
        return self._finish()

    def set_passwords(self, passwords: PasswordRing, now: Instant) -> list[RouterEffect]:
        """Use another ring from the next handshake on; what is established stays."""
        self.hub.now = now
        self.hub.passwords = passwords
        self.links.passwords_changed()
        return self._finish()

    def publish(self, channel: str, keys: tuple[bytes, ...], now: Instant) -> list[RouterEffect]:
        """Our own state behind a registered channel changed under these keys."""
        self.hub.now = now
        self.rumours.publish(channel, *keys)
        return self._finish()

    def attached(self, pods: tuple[Pod, ...], now: Instant) -> list[RouterEffect]:
        """These are all the pods of this host now, and what they are called."""
        self.hub.now = now
        if self.attachments.set_own(pods):
            self._attachments_changed()
        return self._finish()

    def set_mtu(self, mtu: int, now: Instant) -> list[RouterEffect]:
        """Our pods take so much now: to be said before they take less, and after they take more."""
        self.hub.now = now
        if mtu != self.hub.mtu:
            self.hub.mtu = self.topology.mtu = mtu
            self._edges_changed()
        return self._finish()

    def unicast(
        self, dst: PeerName, channel: str, payload: bytes, now: Instant
    ) -> list[RouterEffect]:
        """Send a message to one peer over the control connections. It may be lost."""
        self.hub.now = now
        self.unicasts.send(dst, channel, payload)
        return self._finish()

    def shutdown(self, now: Instant) -> list[RouterEffect]:
        """Say good-bye on every connection. Nothing happens after it."""
        self.hub.now = now
        self.neighbours.close_all(Refusal.SHUTDOWN)
        effects = self._finish()
        self._running = False
        return [e for e in effects if not isinstance(e, Arm)] + [Arm(None)]

    def status(self, now: Instant) -> RouterStatus:
        """What there is to show; changes nothing."""
        return router_status(self, now)

    # ---- inside: neighbours

    def _neighbour_up(self, peer: PeerName) -> None:
        stream = self.neighbours.stream(peer)
        assert stream is not None
        remote = stream.remote
        assert remote is not None
        host = stream.endpoint.host
        self.vigil.watch(peer, remote, Endpoint(host, remote.probe_port))
        self.links.neighbour_up(peer, Endpoint(host, remote.sleeve_port), remote.uid)
        self.fastdp.connected(peer, host, remote.uid, remote.features)
        self.rumours.perform(self.rumours.engine.neighbour_up(peer, self.hub.now))
        self._edges_changed()

    def _neighbour_down(self, peer: PeerName, reason: str) -> None:
        self.vigil.drop(peer)
        self.links.neighbour_down(peer, reason)
        self.fastdp.disconnected(peer)
        self.rumours.engine.neighbour_down(peer)
        self._edges_changed()

    # ---- inside: unicast

    def _send_pair(self, peer: PeerName, message: bytes) -> None:
        self.unicasts.send(peer, PAIR_CHANNEL, message)

    def _unicast(self, src: PeerName, channel: str, payload: bytes) -> None:
        if channel == PAIR_CHANNEL:
            if src not in self.links.pairs:
                self._recompute()  # it knew us sooner than our routes knew it
            self.links.receive_pair(src, payload)
        else:
            self.hub.notify(UnicastReceived(src, channel, payload))

    # ---- inside: topology

    def _gossip_changed(self, channel: str) -> None:
        if channel == TOPOLOGY:
            self._topology_changed()
        elif channel == ATTACHMENTS:
            self._routes_soon()

    def _topology_changed(self) -> None:
        self._routes_soon()
        if self.topology.is_update_due:
            self._soon("edges", SETTLE)
        if self.topology.clone_suspected and not self._clone_told:
            self._clone_told = True
            self.hub.notify(CloneSuspected())

    def _routes_soon(self) -> None:
        self._soon("routes", self._pace.routes(len(self.topology.records), self.hub.now))

    def _edges_changed(self) -> None:
        self._soon("edges", SETTLE)

    def _attachments_changed(self) -> None:
        self.rumours.publish(ATTACHMENTS, self.hub.us.octets)
        self._routes_soon()

    def _measured(self) -> None:
        """A round trip was measured: whether it is worth a new record is looked at now and then."""
        self._soon("edges", COST_INTERVAL)

    def _soon(self, what: str, delay: float) -> None:
        """Do ``what`` within ``delay`` seconds, together with whatever else asks for it."""
        when = Instant(self.hub.now + delay)
        planned = self.hub.deadlines.get((what,))
        if planned is None or planned > when:
            self.hub.deadlines.set((what,), when)

    def _publish_edges(self) -> None:
        hub = self.hub
        if not self.topology.update(
            edges=edges(self.neighbours, self.links, self.vigil), now=hub.now
        ):
            # What only the worker must know, an address behind a NAT, may have changed.
            self.links.sync(self.topology.records, self.reachable, self.routes)
            return
        self._keep_short_id()
        self.rumours.publish(TOPOLOGY, hub.us.octets)
        self._routes_soon()

    def _keep_short_id(self) -> None:
        short_id = self.topology.own.short_id
        if short_id is not None and short_id != self._short_id:
            self._short_id = short_id
            self.hub.emit(PersistShortID(short_id))

    def _recompute(self) -> None:
        """Routes, and everything that follows from them."""
        hub, records = self.hub, self.topology.records
        self.routes = compute(records, hub.us, kernel_relays=not hub.encrypted)
        self._pace.routes_made(hub.now)
        reachable = frozenset(self.routes.control_unicast)
        if reachable != self.reachable:
            self.reachable = reachable
            hub.notify(PeersChanged(reachable))
        self._discover()
        self.links.sync(records, reachable, self.routes)

    def _discover(self) -> None:
        """Tell the connection maker where peers that we have no connection to were reached."""
        wanted = strangers(self.topology.records, self.hub.us, self.reachable, self.neighbours)
        maker = self.neighbours.maker
        self.neighbours.perform_maker(maker.discovered(wanted, self.hub.now))

    def _collect(self) -> None:
        for peer in self.topology.collect(self.reachable, self.hub.now):
            self.unicasts.forget(peer)
            self.hub.notify(PeerGone(peer))
            self._routes_soon()
        self.attachments.collect(self.topology.records)
        if self.fastdp.is_holding:
            self._routes_soon()
        self._soon("collect", COLLECT_INTERVAL)

    # ---- inside: the end of every input

    def _finish(self) -> list[RouterEffect]:
        hub = self.hub
        if not self._running:
            hub.effects = []
            return []
        due = hub.deadlines.next()
        if due != self._armed:
            self._armed = due
            hub.emit(Arm(due))
        effects, hub.effects = hub.effects, []
        return effects
