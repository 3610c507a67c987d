"""The daemon: everything composed, started in order, stopped in order.

state, identity, passwords ─> store ─> allocator ─┐
TAP, UDP ─> worker ─┐                              ├─> API, CNI socket ─> ready
router ─> mesh driver ─ devices (helper process) ─┘
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

from ipam.address import AddressRange
from ipam.election import CHANNEL as ELECTION
from ipam.ring import CHANNEL as RING
from mesh.connection.reasons import Refusal
from mesh.crypto.password import DEFAULT_ID, PasswordRing, parse_password_file
from mesh.drivers.ciphers import measured_offer
from mesh.drivers.clock import LoopClock
from mesh.drivers.identity_file import load_identity
from mesh.drivers.kem import SystemKem
from mesh.drivers.mesh import MeshDriver
from mesh.drivers.steering import KernelEffect, SteeringDriver
from mesh.drivers.tasks import Supervisor
from mesh.drivers.worker import WorkerProcess
from mesh.errors import OperatorError
from mesh.names import PeerName, PeerUID
from mesh.router.events import (
    ChannelChanged,
    CloneSuspected,
    ConnectionDown,
    ConnectionUp,
    KernelPathChanged,
    LinkChanged,
    PathChanged,
    PeerGone,
    PeersChanged,
    Quarantined,
    RouterEvent,
    UnicastReceived,
)
from mesh.router.hub import RouterConfig
from mesh.router.router import Router
from mesh.topology.attachments import Pod
from mesh.wire.worker import ToWorker
from weaver import __version__
from weaver.config import Config
from weaver.daemon.attach import Attacher, Attachment, AttachmentStore
from weaver.daemon.devices import TAP, Devices
from weaver.daemon.events import EventLog
from weaver.daemon.fastpath import open_fastpath, remove_fastpath
from weaver.daemon.leaks import Leaks
from weaver.daemon.network import Network
from weaver.daemon.podmtu import PodMtu
from weaver.daemon.ranges import Ranges, Terms
from weaver.daemon.soon import Soon
from weaver.daemon.state import StateDir

log = logging.getLogger(__name__)

HANDOVER_TIMEOUT = 10.0

TELL_INTERVAL = 0.05
"""Seconds between two times that the mesh is told of our pods: of all of them each time, signed, so
that it is no part of an ADD's answer, and thirty at once cost no more than one."""

CLONE_WATCH = 5.0
"""Seconds between looks whether another host still has our identity."""


class Daemon:
    """One peer. ``run`` returns when it was asked to stop."""

    def __init__(self, config: Config, listening: socket.socket | None = None) -> None:
        self.config, self._listening = config, listening
        self.events = EventLog()
        self.stopping = asyncio.Event()
        self.ready = False
        self.sockets: list[Path] = []
        """Ours; that they are gone says that we are, and have let everything go."""
        self._supervisor = Supervisor()
        self._telling = Soon(self.tell_attached, TELL_INTERVAL)
        self._loop = asyncio.get_running_loop()
        self.clock = LoopClock(self._loop)
        self.started_at = self.clock.now()

    # ---- life

    async def start(self) -> None:
        """Raises OperatorError when anything the daemon stands on cannot be had."""
        config = self.config
        self.state = StateDir(config.state_dir)
        self.identity = load_identity(config.state_dir / "identity")
        self.rng = SystemRandom()
        self.network = Network()
        lanes = config.lanes(len(os.sched_getaffinity(0)))
        by_kernel_alone = config.fastdp and config.password is None and not config.password_file
        self.pod_mtu = PodMtu(
            config.mtu,
            self.clock,
            sealed=not by_kernel_alone,
            targets={target.host for target in (*config.peers, *self.state.targets)},
            note=self._note,
        )
        self.router = self._make_router()
        by_kernel = self.router.fastdp.unwanted is None
        self.devices = Devices(
            self.network,
            config.sleeve_port,
            self.pod_mtu.value,
            self._bridge_mac(),
            lanes,
            by_kernel=by_kernel,
        )
        self.ranges = self._make_ranges()
        self.mesh = MeshDriver(
            self.router,
            self.clock,
            self.state,
            on_event=self._on_event,
            tell_worker=self._tell_worker,
            steer=self._steer,
        )
        self.steering = SteeringDriver(
            open_fastpath, TAP, changed=self.devices.steered, on_event=self.mesh.datapath_said
        )
        self.worker = WorkerProcess(
            self._worker_devices,
            on_message=self.mesh.worker_said,
            on_started=self.mesh.worker_started,
            on_lost=self._worker_lost,
        )
        if not by_kernel:
            self.take_fastpath_away()
        await self.devices.setup()
        self.attachments = AttachmentStore(config.state_dir / "attachments.db")
        self.attacher = Attacher(
            self.ranges.pools,
            self.network,
            self.attachments,
            self.pod_mtu.value,
            note=self._note_pod,
        )
        self.attacher.exposure_changed = self._telling.ask
        self.leaks = Leaks(
            self.attacher,
            self.network,
            self.ranges.addresses,
            self.clock,
            tell=self.ranges.suspected,
        )
        self.ranges.start(company=bool(config.peers or self.state.targets))
        try:
            await self.mesh.start(self._listening)
        except OSError as err:
            raise OperatorError(
                f"port {config.port} or {config.probe_port}: {err.strerror}", "port-taken"
            ) from err
        if by_kernel:
            self._supervisor.spawn(self.steering.run(), "fast path")
        self.worker.start()
        await self.attacher.reconcile()
        self.tell_attached()
        if config.seed:
            await self.ranges.seed()
        attacher = self.attacher
        await attacher.mend_rules()
        watch = self.devices.watch(attacher.ports, attacher.put_back, attacher.mend_rules)
        self._supervisor.spawn(watch, "devices")
        self._supervisor.spawn(self._watch_clone(), "clone")
        resizing = self.pod_mtu.watch(self._neighbour_hosts, self.mesh.set_mtu, self._resize)
        self._supervisor.spawn(resizing, "MTU of pods")
        self._supervisor.spawn(self.leaks.run(), "leaks")
        self.ready = True
        self._note("ready", peer=self.identity.name, nickname=config.nickname)

    async def close(self) -> None:
        """Stop; pods keep their devices, and the next start takes them up again."""
        self.ready = False
        self._telling.close()
        await self._supervisor.close()
        await self.mesh.close()
        await self.worker.close()
        self.steering.close()
        await self.network.close()
        self.ranges.close()
        self.attachments.close()
        self.devices.close()
        for path in self.sockets:
            path.unlink(missing_ok=True)
        self.state.close()
        self.pod_mtu.close()

    def _make_router(self) -> Router:
        config = self.config
        targets = tuple(dict.fromkeys((*config.peers, *self.state.targets)))
        return Router(
            RouterConfig(
                nickname=config.nickname,
                port=config.port,
                probe_port=config.probe_port,
                sleeve_port=config.sleeve_port,
                mtu=self.pod_mtu.value,
                limit=config.conn_limit,
                discovery=config.discovery,
                liveness_timeout=config.liveness_timeout,
                short_id=self.state.short_id,
                targets=targets,
                program=f"weaver {__version__}",
                ciphers=measured_offer(config.cipher),
                fastdp=config.fastdp,
                trusted=config.trusted_subnets,
            ),
            identity=self.identity,
            uid=PeerUID(self.rng.getrandbits(64)),
            passwords=self.passwords(),
            kem=SystemKem(),
            entropy=os.urandom,
            rng=self.rng,
        )

    def _make_ranges(self) -> Ranges:
        config = self.config
        ranges = Ranges(
            config.state_dir,
            config.ranges,
            self.identity,
            self.rng,
            self.clock,
            Terms(
                electors=config.init_peer_count or 1 + len(set(config.peers)),
                observer=config.observer,
                rest=config.rest,
                exclusions=config.exclusions,
            ),
            send=self._send,
            publish=self._publish,
        )
        self.router.register(ranges.rings)
        self.router.register(ranges.elections)
        return ranges

    async def add_range(self, range: AddressRange) -> None:
        """One more, from now on and at every start; the bridge has an address of it if it has of
        others. Raises OperatorError."""
        self.ranges.add(range)
        self._note("range added", range=str(range))
        if self.attacher.exposed:
            await self.attacher.expose()
            self.tell_attached()
        await self.attacher.mend_rules()

    def passwords(self) -> PasswordRing:
        """The ring of passwords as the configuration has it now. Takes a while (Argon2id)."""
        config = self.config
        if config.password_file is not None:
            try:
                text = config.password_file.read_text()
            except (OSError, UnicodeDecodeError) as err:
                raise OperatorError(
                    f"cannot read {config.password_file}: {getattr(err, 'strerror', None) or err}",
                    "password-file-unreadable",
                ) from err
            return PasswordRing.derive(parse_password_file(text))
        if config.password is not None:
            return PasswordRing.derive([(DEFAULT_ID, config.password)])
        return PasswordRing(())

    def take_fastpath_away(self) -> None:
        """Whether it is ours or an earlier daemon's, whose kernel goes on."""
        try:
            if remove_fastpath():
                log.info("fast path removed")
        except OperatorError as err:
            log.warning("fast path not removed", extra={"reason": err.reason, "error": str(err)})

    def _neighbour_hosts(self) -> set[str]:
        return {direct.endpoint.host for direct in self.router.links.direct.values()}

    async def _resize(self, mtu: int) -> int:
        """Of pods and of the bridge; what they take now."""
        least = await self.attacher.resize(mtu)
        if self.devices.mtu != mtu:
            self.devices.mtu = mtu
            await self.devices.setup()
        return least

    def _bridge_mac(self) -> str:
        """A locally administered address of our own, so that the bridge's never changes."""
        octets = bytearray(self.identity.name.octets[:6])
        octets[0] = octets[0] & 0xFC | 0x02
        return bytes(octets).hex(":")

    # The mesh, its worker and the allocator need each other: these bind them late.

    def _tell_worker(self, message: ToWorker) -> None:
        self.worker.send(message)

    def _steer(self, effect: KernelEffect) -> None:
        self.steering.perform(effect)

    async def _worker_devices(self) -> Sequence[tuple[int, int]]:
        devices = await self.devices.for_worker()
        self.steering.sleeve_made()
        return devices

    def _send(self, peer: PeerName, channel: str, payload: bytes) -> None:
        self.mesh.unicast(peer, channel, payload)

    def _publish(self, channel: str, keys: tuple[bytes, ...]) -> None:
        self.mesh.publish(channel, keys)

    # ---- events

    def _on_event(self, event: RouterEvent) -> None:
        match event:
            case UnicastReceived(src, channel, payload):
                if channel == RING:
                    self.ranges.received(src, payload)
            case ChannelChanged(channel, keys):
                if channel in (RING, ELECTION):
                    self.ranges.channel_changed(channel, tuple(keys))
            case PeersChanged(reachable):
                self.ranges.peers_changed({p: self.nickname(p) for p in reachable})
                self._note("peers changed", reachable=len(reachable))
            case ConnectionUp(peer, nickname, remote, outbound):
                self._note(
                    "connection established",
                    peer=peer,
                    nickname=nickname,
                    remote=remote,
                    outbound=outbound,
                )
            case ConnectionDown(peer, remote, reason, by_peer, established):
                phrase = "connection ended" if established else "connection refused"
                if reason == Refusal.CLONE:
                    self.ranges.doubted()
                self._note(phrase, peer=peer, remote=remote, reason=reason, by_peer=by_peer)
            case LinkChanged(peer, up, reason):
                self._note("link up" if up else "link down", peer=peer, reason=reason)
            case KernelPathChanged(peer, well, reason):
                phrase = "kernel path well" if well else "kernel path not well"
                self._note(phrase, peer=peer, reason=reason)
            case PathChanged(peer, path, next_hop, reason, overlay, not_kernel):
                self._note(
                    "path changed",
                    peer=peer,
                    overlay=overlay,
                    path=path,
                    via=None if next_hop in (None, peer) else next_hop,
                    reason=reason,
                    not_kernel=not_kernel or None,
                )
            case Quarantined(channel, key, reason, source):
                if channel in (RING, ELECTION):
                    self.ranges.channel_changed(channel, (key,))
                self._note(
                    "gossip refused", channel=channel, key=key.hex(), reason=reason, peer=source
                )
            case PeerGone(peer):
                self._note("peer forgotten", peer=peer)
            case CloneSuspected():
                self.ranges.cloned()
                self._note("identity is in use elsewhere", reason="cloned-identity")

    async def _watch_clone(self) -> None:
        """Give nothing out while there is another of us, and again when there is none: a clone
        that is gone is suspected no more after a minute, and nobody tells."""
        while True:
            await asyncio.sleep(CLONE_WATCH)
            self.ranges.cloned(still=self.router.topology.clone_suspected)

    def _worker_lost(self, reason: str) -> None:
        self.events.add("worker lost", {"reason": reason})  # the driver has logged more of it
        self.mesh.worker_lost(reason)

    def _note_pod(self, phrase: str, row: Attachment) -> None:
        where = " ".join(row.addresses)
        self._note(phrase, container=row.container, interface=row.ifname, address=where)
        self._telling.ask()

    def tell_attached(self) -> None:
        """Let the mesh know which MAC and IP addresses are on this host's bridge."""
        pods = [
            Pod(_mac(row.mac), tuple(cidr.partition("/")[0] for cidr in row.addresses))
            for row in self.attacher.list()
            if row.mac is not None
        ]
        if gateways := self.attacher.gateways:
            pods.append(Pod(_mac(self._bridge_mac()), gateways))
        self.mesh.attached(tuple({pod.mac: pod for pod in pods}.values()))

    def _note(self, phrase: str, **fields: object) -> None:
        log.info(phrase, extra=fields)
        self.events.add(phrase, {key: _plain(value) for key, value in fields.items()})

    def nickname(self, peer: PeerName) -> str:
        record = self.router.topology.records.get(peer)
        return record.nickname if record is not None else str(peer)

    def background(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Run something beside everything else; its failure is logged."""
        self._supervisor.spawn(work, name)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
