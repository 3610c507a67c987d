"""Perform a router: its streams, its probe port, its worker, its one deadline."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mesh.clock import Clock, Instant, Timer
from mesh.connection.maker import Target
from mesh.crypto.password import PasswordRing
from mesh.drivers.listen import listening_socket
from mesh.drivers.steering import KernelEffect
from mesh.drivers.tasks import Supervisor
from mesh.drivers.tcp import Stream, dial
from mesh.drivers.udp import ProbeSocket, bound_socket
from mesh.effects import Arm, Notify
from mesh.names import Endpoint, PeerName, ShortID
from mesh.router.effects import (
    CloseStream,
    ConfigureKernel,
    Deliver,
    Dial,
    ForgetLearned,
    PersistShortID,
    PersistTargets,
    RouterEffect,
    SendControl,
    SendDatagram,
    Steer,
    TellWorker,
    Write,
)
from mesh.router.events import RouterEvent
from mesh.router.from_datapath import FromDatapath
from mesh.router.router import Router
from mesh.topology.attachments import Pod
from mesh.wire.worker import FromWorker, ToWorker

log = logging.getLogger(__name__)


class Memory(Protocol):
    """Where the router's few lasting facts go."""

    def save_targets(self, targets: tuple[Target, ...]) -> None: ...
    def save_short_id(self, short_id: ShortID) -> None: ...


class MeshDriver:
    """A router on the running event loop. ``worker`` takes messages once it was started."""

    def __init__(
        self,
        router: Router,
        clock: Clock,
        memory: Memory,
        *,
        on_event: Callable[[RouterEvent], None],
        tell_worker: Callable[[ToWorker], None],
        steer: Callable[[KernelEffect], None] = lambda _: None,
    ) -> None:
        self.router = router
        self._clock, self._memory = clock, memory
        self._on_event, self._tell_worker, self._steer = on_event, tell_worker, steer
        self._streams: dict[int, Stream] = {}
        self._next_conn = 0
        self._timer: Timer | None = None
        self._supervisor = Supervisor()
        self._server: asyncio.Server | None = None
        self._probes = ProbeSocket(self._datagram)
        self._todo: deque[RouterEffect] = deque()
        self._busy = False
        self._closed = False

    # ---- life

    async def start(self, listening: socket.socket | None = None) -> None:
        """Accept connections and start the router. Raises OSError when a port is taken.

        ``listening``: a socket that listens already; it is ours from now on.
        """
        config = self.router.hub.config
        loop = asyncio.get_running_loop()
        probe_socket = bound_socket(config.probe_port)
        try:
            self._server = await loop.create_server(
                lambda: Stream(self, self._number(), None),
                sock=listening or listening_socket(config.port),
            )
        except OSError:
            probe_socket.close()
            raise
        await self._probes.start(probe_socket)
        self.perform(self.router.start(self.now()))

    async def close(self) -> None:
        """Say good-bye to every peer and close everything."""
        if self._server is not None:
            self._server.close()
        self.perform(self.router.shutdown(self.now()))
        self._closed = True
        await self._supervisor.close()
        await self._probes.close()

    def now(self) -> Instant:
        return self._clock.now()

    # ---- orders of the daemon

    def connect(self, targets: tuple[Target, ...]) -> None:
        self.perform(self.router.connect(targets, self.now()))

    def forget(self, targets: tuple[Target, ...]) -> None:
        self.perform(self.router.forget(targets, self.now()))

    def set_passwords(self, passwords: PasswordRing) -> None:
        self.perform(self.router.set_passwords(passwords, self.now()))

    def publish(self, channel: str, keys: tuple[bytes, ...]) -> None:
        self.perform(self.router.publish(channel, keys, self.now()))

    def unicast(self, dst: PeerName, channel: str, payload: bytes) -> None:
        self.perform(self.router.unicast(dst, channel, payload, self.now()))

    def attached(self, pods: tuple[Pod, ...]) -> None:
        self.perform(self.router.attached(pods, self.now()))

    def set_mtu(self, mtu: int) -> None:
        self.perform(self.router.set_mtu(mtu, self.now()))

    # ---- the worker

    def worker_started(self) -> None:
        self.perform(self.router.worker_started(self.now()))

    def worker_lost(self, reason: str) -> None:
        self.perform(self.router.worker_lost(reason, self.now()))

    def worker_said(self, message: FromWorker) -> None:
        self.perform(self.router.receive_worker(message, self.now()))

    def datapath_said(self, event: FromDatapath) -> None:
        self.perform(self.router.receive_datapath(event, self.now()))

    # ---- streams

    def opened(self, stream: Stream) -> None:
        self._streams[stream.conn] = stream
        if stream.target is None:
            effects = self.router.accepted(stream.conn, stream.remote, self.now())
        else:
            effects = self.router.dialled(stream.conn, stream.target, stream.remote, self.now())
        self.perform(effects)

    def received(self, conn: int, data: bytes) -> None:
        self.perform(self.router.receive_stream(conn, data, self.now()))

    def flow(self, conn: int, *, paused: bool) -> None:
        change = self.router.stream_paused if paused else self.router.stream_resumed
        self.perform(change(conn, self.now()))

    def lost(self, conn: int) -> None:
        self._streams.pop(conn, None)
        self.perform(self.router.stream_closed(conn, self.now()))

    # ---- effects

    def perform(self, effects: list[RouterEffect]) -> None:
        """Perform effects in order, also when performing one of them causes more."""
        self._todo.extend(effects)
        if self._busy:
            return
        self._busy = True
        try:
            while self._todo:
                self._perform(self._todo.popleft())
        finally:
            self._busy = False

    def _perform(self, effect: RouterEffect) -> None:
        match effect:
            case Write(conn, data):
                if (stream := self._streams.get(conn)) is not None:
                    stream.write(data)
            case SendDatagram(endpoint, data):
                self._probes.send(endpoint, data)
            case TellWorker(message):
                self._tell_worker(message)
            case ConfigureKernel() | Steer() | ForgetLearned() | SendControl() | Deliver():
                self._steer(effect)
            case Arm(deadline):
                self._arm(deadline)
            case Notify(event):
                self._on_event(event)
            case CloseStream(conn):
                if (stream := self._streams.pop(conn, None)) is not None:
                    stream.close()
            case Dial(target):
                if not self._closed:
                    self._supervisor.spawn(self._dial(target), f"dial {target}")
            case PersistTargets(targets):
                self._memory.save_targets(targets)
            case PersistShortID(short_id):
                self._memory.save_short_id(short_id)

    async def _dial(self, target: Target) -> None:
        reason = await dial(self, self._number(), target)
        if reason is not None and not self._closed:
            self.perform(self.router.dial_failed(target, reason, self.now()))

    def _datagram(self, source: Endpoint, data: bytes) -> None:
        self.perform(self.router.receive_datagram(source, data, self.now()))

    def _arm(self, deadline: Instant | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if deadline is not None and not self._closed:
            self._timer = self._clock.call_at(deadline, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.perform(self.router.handle_timer(self.now()))

    def _number(self) -> int:
        self._next_conn += 1
        return self._next_conn
