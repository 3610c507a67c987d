"""One simulated host: a real router, wired to the simulated underlay as the driver wires it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from random import Random

from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.crypto.identity import Identity
from mesh.crypto.password import Password, PasswordRing
from mesh.effects import Arm, Notify
from mesh.link.overlay import Network
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
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
from mesh.router.hub import RouterConfig
from mesh.router.router import Router
from mesh.wire.cipher import Cipher, Offer
from tests.sim.clock import SimClock, _Entry
from tests.sim.kem import SimKem
from tests.sim.kernel import VXLAN_PORT, SimKernel
from tests.sim.network import Pipe, SimNetwork
from tests.sim.worker import SimWorker

PORT, PROBE_PORT, SLEEVE_PORT = 6783, 6786, 6784


def ring(*ids: str) -> PasswordRing:
    """Passwords without Argon2id's tenth of a second each: the key is the id."""
    return PasswordRing(tuple(Password(id, id.encode().ljust(32, b".")) for id in ids))


class SimHost:
    """Survives ``kill`` and ``start`` with its identity, targets and short ID."""

    def __init__(
        self,
        address: str,
        number: int,
        clock: SimClock,
        network: SimNetwork,
        rng: Random,
        passwords: PasswordRing,
        on_event: Callable[[SimHost, RouterEvent], None] = lambda _host, _event: None,
        limit: int = 200,
        ciphers: Offer | None = None,
        fastdp: bool = False,
        trusted: tuple[Network, ...] = (),
        mtu: int = 1400,
    ) -> None:
        self.address, self.clock, self.network, self.rng = address, clock, network, rng
        self.identity = Identity.from_seed(rng.randbytes(32))
        self.name: PeerName = self.identity.name
        self.number, self.limit = number, limit
        self.passwords = passwords
        self.ciphers: Offer = ciphers or dict.fromkeys(Cipher, 0)
        self.targets: tuple[Target, ...] = ()
        self.short_id: ShortID | None = None
        self.alive = False
        self.received: list[tuple[PeerName, bytes]] = []
        self.events: list[RouterEvent] = []
        self.streams: dict[bytes, Callable[[bytes], None]] = {}
        """Who takes frames that begin with these four octets."""
        self.opens_after = 0.0
        """Seconds that a daemon needs to open the kernel's fast path."""
        self.device_mtu = 1 << 16
        self._on_event = on_event
        self.trusted, self.mtu = trusted, mtu
        self.kernel = SimKernel(address, network, self._to_worker) if fastdp else None
        self.bridge: list[bytes] = []
        """Frames that our pods were given."""
        if self.kernel is not None:
            self.bridge = self.kernel.bridge

    # ---- life

    def prepare(self) -> None:
        """Make the router, so that channels can be registered before it starts."""
        config = RouterConfig(
            nickname=self.address,
            port=PORT,
            probe_port=PROBE_PORT,
            sleeve_port=SLEEVE_PORT,
            short_id=self.short_id,
            targets=self.targets,
            limit=self.limit,
            ciphers=self.ciphers,
            mtu=self.mtu,
            fastdp=self.kernel is not None,
            vxlan_port=VXLAN_PORT,
            trusted=self.trusted,
        )
        self.router = Router(
            config,
            identity=self.identity,
            uid=PeerUID(self.rng.getrandbits(64)),
            passwords=self.passwords,
            kem=SimKem(),
            entropy=self.rng.randbytes,
            rng=self.rng,
        )

    def start(self) -> None:
        """Run the router that was prepared."""
        assert not self.alive
        self.alive = True
        self._pipes: dict[int, tuple[Pipe, int]] = {}
        self._conn = 0
        self._timer: _Entry | None = None
        self._todo: deque[RouterEffect] = deque()
        self._busy = False
        self._life = object()
        self.network.listen(self.address, self._accept)
        self.network.attach(f"{self.address}/{PROBE_PORT}", self._datagram)
        self.perform(self.router.start(self.clock.now()))
        if self.kernel is not None and self.router.fastdp.unwanted is None:
            life, opened = self._life, self.kernel.opened
            if self.opens_after:
                late = self.opens_after
                self._later(lambda: opened(self._datapath_said), lambda: life is self._life, late)
            else:
                opened(self._datapath_said)
        self.start_worker()

    def start_worker(self) -> None:
        life = self._life
        self.worker = worker = SimWorker(
            lambda endpoint, data: self._send(SLEEVE_PORT, endpoint, data),
            lambda message: self._later(
                lambda: self.perform(self.router.receive_worker(message, self.clock.now())),
                lambda: life is self._life and worker is self.worker,
            ),
            self._pods,
            self.clock.now,
            lambda seconds, action: self._later(
                action, lambda: life is self._life and worker is self.worker, seconds
            ),
        )
        worker.device_mtu = self.device_mtu
        worker.bridge = self._received
        self.network.attach(
            f"{self.address}/{SLEEVE_PORT}", lambda src, data: worker.receive(_endpoint(src), data)
        )
        self.perform(self.router.worker_started(self.clock.now()))

    def kill_worker(self) -> None:
        self.perform(self.router.worker_lost("worker-died", self.clock.now()))
        self.start_worker()

    def kill(self) -> None:
        """As SIGKILL does: nothing is said, all that was in memory is gone."""
        self.alive = False
        self._life = object()
        if self._timer is not None:
            self._timer.cancel()
        self.network.detach(self.address)
        self._pipes = {}
        if self.kernel is not None:
            self.kernel.left()

    # ---- frames

    def pod_sends(self, frame: bytes) -> None:
        """One of our pods sends an Ethernet frame that is not for another one here."""
        if self.kernel is not None and self.router.fastdp.unwanted is None:
            self.kernel.from_pod(frame)
        else:
            self._to_worker(frame)

    def _to_worker(self, frame: bytes) -> None:
        if self.alive:
            self.worker.from_device(frame)

    def _received(self, src: PeerName, frame: bytes) -> None:
        self.received.append((src, frame))
        if self.kernel is not None and self.router.fastdp.unwanted is None:
            self.kernel.from_sleeve(frame)
        else:
            self.bridge.append(frame)

    def _datapath_said(self, event: FromDatapath) -> None:
        self.perform(self.router.receive_datapath(event, self.clock.now()))

    # ---- the driver's part

    def perform(self, effects: list[RouterEffect]) -> None:
        self._todo.extend(effects)
        if self._busy:
            return
        self._busy = True
        while self._todo and self.alive:
            self._perform(self._todo.popleft())
        self._busy = False

    def _perform(self, effect: RouterEffect) -> None:
        match effect:
            case Write(conn, data):
                if (held := self._pipes.get(conn)) is not None:
                    self.network.write(*held, data)
            case SendDatagram(endpoint, data):
                self._send(PROBE_PORT, endpoint, data)
            case TellWorker(message):
                self.worker.tell(message)
            case ConfigureKernel() | Steer() | ForgetLearned() | SendControl() | Deliver():
                assert self.kernel is not None
                self.kernel.perform(effect)
            case Arm(deadline):
                self._arm(deadline)
            case Notify(event):
                self.events.append(event)
                self._on_event(self, event)
            case CloseStream(conn):
                if (held := self._pipes.pop(conn, None)) is not None:
                    self.network.close(*held)
            case Dial(target):
                life = self._life
                self.network.dial(
                    self.address,
                    target.host,
                    lambda pipe: self._opened(pipe, target) if life is self._life else None,
                    lambda reason: self._failed(target, reason) if life is self._life else None,
                )
            case PersistTargets(targets):
                self.targets = targets
            case PersistShortID(short_id):
                self.short_id = short_id

    def _send(self, port: int, endpoint: Endpoint, data: bytes) -> None:
        self.network.send(f"{self.address}/{port}", f"{endpoint.host}/{endpoint.port}", data)

    def _later(
        self, action: Callable[[], None], still: Callable[[], bool], seconds: float = 0.0001
    ) -> None:
        when = Instant(self.clock.now() + seconds)
        self.clock.call_at(when, lambda: action() if still() else None)

    def _arm(self, deadline: Instant | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            self._timer = self.clock.call_at(max(deadline, self.clock.now()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.perform(self.router.handle_timer(self.clock.now()))

    def _pods(self, src: PeerName, frame: bytes) -> None:
        taker = self.streams.get(frame[:4])
        if taker is not None:
            taker(frame)
        else:
            self.received.append((src, frame))

    def _datagram(self, src: str, data: bytes) -> None:
        self.perform(self.router.receive_datagram(_endpoint(src), data, self.clock.now()))

    def _register(self, pipe: Pipe, end: int) -> int:
        self._conn += 1
        conn, life = self._conn, self._life
        self._pipes[conn] = (pipe, end)

        def receive(data: bytes) -> None:
            if life is self._life and conn in self._pipes:
                self.perform(self.router.receive_stream(conn, data, self.clock.now()))

        def closed() -> None:
            if life is self._life and self._pipes.pop(conn, None) is not None:
                self.perform(self.router.stream_closed(conn, self.clock.now()))

        pipe.receive[end], pipe.closed[end] = receive, closed
        return conn

    def _accept(self, pipe: Pipe) -> None:
        conn = self._register(pipe, 1)
        remote = Endpoint(pipe.hosts[0], 40000)
        self.perform(self.router.accepted(conn, remote, self.clock.now()))

    def _opened(self, pipe: Pipe, target: Target) -> None:
        conn = self._register(pipe, 0)
        remote = Endpoint(target.host, target.port)
        self.perform(self.router.dialled(conn, target, remote, self.clock.now()))

    def _failed(self, target: Target, reason: str) -> None:
        self.perform(self.router.dial_failed(target, reason, self.clock.now()))


@cache
def _endpoint(text: str) -> Endpoint:
    host, port = text.split("/")
    return Endpoint(host, int(port))
