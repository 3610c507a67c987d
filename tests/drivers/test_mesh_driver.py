"""Two real routers over loopback TCP and UDP: refusals seen on both ends, junk survived."""

from __future__ import annotations

import asyncio
import os
import socket
from random import Random

import pytest

from mesh.connection.maker import Target
from mesh.crypto.identity import Identity
from mesh.crypto.password import Password, PasswordRing
from mesh.drivers.clock import LoopClock
from mesh.drivers.kem import SystemKem
from mesh.drivers.mesh import MeshDriver
from mesh.names import PeerUID, ShortID
from mesh.router.events import ConnectionDown, ConnectionUp, RouterEvent
from mesh.router.hub import RouterConfig
from mesh.router.router import Router
from mesh.wire.worker import ToWorker

DEADLINE = 15.0


def ring(*ids: str, key: bytes = b"k") -> PasswordRing:
    return PasswordRing(tuple(Password(id, key * 32) for id in ids))


def free_port() -> int:
    """A port that neither TCP nor UDP uses now."""
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return int(tcp.getsockname()[1])


class Peer:
    """A router and its driver, without a worker: connections are what is tested here."""

    def __init__(self, passwords: PasswordRing, seed: int, uid: int = 0, limit: int = 200) -> None:
        self.events: list[RouterEvent] = []
        self.port, probe = free_port(), free_port()
        config = RouterConfig(nickname=f"peer{seed}", port=self.port, probe_port=probe, limit=limit)
        self.router = Router(
            config,
            identity=Identity.from_seed(bytes([seed]) * 32),
            uid=PeerUID(uid or seed),
            passwords=passwords,
            kem=SystemKem(),
            entropy=os.urandom,
            rng=Random(seed),
        )
        self.driver = MeshDriver(
            self.router,
            LoopClock(asyncio.get_running_loop()),
            self,
            on_event=self.events.append,
            tell_worker=self._tell,
        )

    def _tell(self, message: ToWorker) -> None:
        raise AssertionError(f"no worker was started, and was told {message}")

    def save_targets(self, targets: tuple[Target, ...]) -> None:
        self.targets = targets

    def save_short_id(self, short_id: ShortID) -> None:
        self.short_id = short_id

    def connect(self, other: Peer) -> None:
        self.driver.connect((Target("127.0.0.1", other.port),))

    def reasons(self) -> list[str]:
        return [e.reason for e in self.events if isinstance(e, ConnectionDown)]

    @property
    def is_connected(self) -> bool:
        return any(isinstance(e, ConnectionUp) for e in self.events)


async def until(condition: object) -> None:
    """Wait for a condition, with a deadline."""
    assert callable(condition)
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # no event tells of what is waited for
            await asyncio.sleep(0.01)


async def meet(a: Peer, b: Peer) -> None:
    await a.driver.start()
    await b.driver.start()
    a.connect(b)


async def close(*peers: Peer) -> None:
    for peer in peers:
        await peer.driver.close()


@pytest.mark.parametrize(
    ("ours", "theirs", "seen_by_us", "seen_by_them"),
    [
        pytest.param(
            ring("a"), ring("a", key=b"x"), "wrong-password", "wrong-password", id="wrong"
        ),
        pytest.param(ring(), ring("a"), "password-missing", "password-unexpected", id="missing"),
        pytest.param(ring("a"), ring(), "password-unexpected", "password-missing", id="unexpected"),
        pytest.param(
            ring("a"), ring("b"), "password-id-unknown", "password-id-unknown", id="no-common-id"
        ),
    ],
)
async def test_refusals_are_seen_on_both_ends(
    ours: PasswordRing, theirs: PasswordRing, seen_by_us: str, seen_by_them: str
) -> None:
    """protocol.md 2.8: both ends MUST show why."""
    a, b = Peer(ours, 1), Peer(theirs, 2)
    await meet(a, b)
    await until(lambda: a.reasons() and b.reasons())
    assert (a.reasons()[0], b.reasons()[0]) == (seen_by_us, seen_by_them)
    for peer in (a, b):
        shown = peer.router.status(peer.driver.now()).connections[0]
        assert shown.state == "refused"
        assert shown.explanation
    await close(a, b)


async def test_a_clone_is_refused_on_both_ends_with_the_words_that_fix_it() -> None:
    a, b = Peer(ring("a"), 1, uid=5), Peer(ring("a"), 1, uid=6)
    await meet(a, b)
    await until(lambda: a.reasons() and b.reasons())
    assert a.reasons()[0] == b.reasons()[0] == "cloned-identity"
    for peer in (a, b):
        words = peer.router.status(peer.driver.now()).connections[0].explanation
        assert words is not None
        assert "identity" in words
    await close(a, b)


async def test_our_own_address_is_harmless() -> None:
    a = Peer(ring("a"), 1)
    await a.driver.start()
    a.connect(a)
    await until(a.reasons)
    assert set(a.reasons()) == {"own-address"}
    await close(a)


async def test_the_limit_is_seen_on_both_ends() -> None:
    hub, first, second = Peer(ring("a"), 1, limit=1), Peer(ring("a"), 2), Peer(ring("a"), 3)
    await meet(first, hub)
    await until(lambda: hub.is_connected)
    await second.driver.start()
    second.connect(hub)
    await until(lambda: "connection-limit" in second.reasons())
    assert "connection-limit" in hub.reasons()
    await close(hub, first, second)


async def test_a_password_is_rotated_without_losing_the_mesh() -> None:
    a, b = Peer(ring("old"), 1), Peer(ring("old"), 2)
    await meet(a, b)
    await until(lambda: a.is_connected and b.is_connected)
    for peer in (a, b):
        peer.driver.set_passwords(ring("new", "old"))
    c = Peer(ring("new"), 3)
    await c.driver.start()
    c.connect(a)
    await until(lambda: len(c.router.reachable) == 2)
    # Two may dial each other at once and keep one connection; nothing else may end.
    assert {*a.reasons(), *b.reasons(), *c.reasons()} <= {"duplicate-connection"}
    await close(a, b, c)


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"weaver",
        b"weaver\x01\x01\xff\xff" + b"x" * 5000,
        b"weaver\x02\x09\x00\x01\x00",
        b"\0" * 100_000,
        bytes(range(256)) * 40,
    ],
    ids=["http", "cut", "huge-header", "future", "zeroes", "noise"],
)
async def test_junk_on_the_control_port_hurts_nobody(junk: bytes) -> None:
    """protocol.md 4.6: strangers MUST NOT cost more than a bounded handshake."""
    a, b = Peer(ring("a"), 1), Peer(ring("a"), 2)
    await meet(a, b)
    await until(lambda: a.is_connected and b.is_connected)
    reader, writer = await asyncio.open_connection("127.0.0.1", b.port)
    writer.write(junk)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE):
        while await reader.read(65536):
            continue
    writer.close()
    await until(lambda: len(b.router.neighbours.streams) == 1)
    await until(lambda: b.router.reachable == {a.router.hub.us})
    await close(a, b)


async def test_junk_on_the_probe_port_is_counted() -> None:
    """protocol.md 9.2: a probe whose tag is wrong MUST be dropped and counted."""
    a, b = Peer(ring("a"), 1), Peer(ring("a"), 2)
    await meet(a, b)
    await until(lambda: a.is_connected and b.is_connected)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for datagram in (b"", b"x", os.urandom(60), os.urandom(1400)):
            sock.sendto(datagram, ("127.0.0.1", b.router.hub.config.probe_port))
    counters = b.router.hub.counters
    await until(lambda: sum(n for reason, n in counters.items() if "probe" in reason) >= 3)
    await until(lambda: b.router.reachable == {a.router.hub.us})
    await close(a, b)


async def test_a_peer_that_never_reads_costs_bounded_memory_and_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """protocol.md 4.1: whatever is meant for it, what waits is bounded; others do not notice."""
    monkeypatch.setattr("mesh.router.neighbours.READ_DEADLINE", 1.0)
    deaf, b, c = (Peer(ring("a"), n) for n in (1, 2, 3))
    await meet(deaf, b)
    await c.driver.start()
    c.connect(b)
    await until(lambda: len(b.router.reachable) == 2)
    ears = [stream._transport for stream in deaf.driver._streams.values()]
    for ear in ears:
        assert ear is not None
        ear.pause_reading()
    towards = b.driver._streams[b.router.neighbours.by_peer[deaf.router.hub.us]]
    assert towards._transport is not None
    most = 0
    for _ in range(400):
        b.driver.unicast(deaf.router.hub.us, "nobody", bytes(256 << 10))
        most = max(most, towards._transport.get_write_buffer_size())
        await asyncio.sleep(0)
    assert most < 4 << 20, "100 MiB were meant for it"
    assert b.router.hub.counters["backlogged"] > 0
    await until(lambda: "peer-not-reading" in b.reasons())
    assert c.router.hub.us in b.router.neighbours.by_peer
    for ear in ears:
        assert ear is not None
        ear.resume_reading()
    await until(deaf.reasons)
    await until(towards._transport.is_closing)
    await close(deaf, b, c)
