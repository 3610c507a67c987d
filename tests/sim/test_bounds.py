"""What bounds connections counts what there is: whatever was refused leaves nothing behind."""

from __future__ import annotations

from mesh.connection.maker import MAX_HALF_OPEN, Target
from mesh.connection.reasons import Refusal
from tests.sim.host import PORT, SimHost
from tests.sim.mesh import SimMesh
from tests.sim.network import Weather


def connect(mesh: SimMesh, host: SimHost, to: SimHost) -> None:
    """As an operator does, who is not made to wait."""
    target = (Target(to.address, PORT),)
    host.perform(host.router.connect(target, mesh.clock.now()))
    mesh.run(1.0)


def test_who_is_refused_at_the_limit_takes_no_place_from_others() -> None:
    """protocol.md 4.6: a handshake that is over is not half-open, however it ended."""
    mesh = SimMesh(1, 3, Weather())
    hub, first, second = mesh.hosts
    hub.limit = 1
    for host in mesh.hosts:
        mesh.start(host)
    connect(mesh, first, hub)
    counters = hub.router.hub.counters
    for _ in range(MAX_HALF_OPEN + 6):
        connect(mesh, second, hub)
    assert counters[Refusal.LIMIT] > MAX_HALF_OPEN
    assert hub.router.neighbours.maker.half_open == 0
    mesh.kill(first)
    mesh.run(10.0)
    connect(mesh, second, hub)
    assert set(hub.router.neighbours.by_peer) == {second.name}
    assert counters[Refusal.BUSY] == 0


def test_two_that_dial_each_other_keep_one_connection_and_the_same() -> None:
    """protocol.md 4.2: both ends resolve it alike, again and again, and count it once."""
    mesh = SimMesh(2, 2, Weather(delay=(0.01, 0.05)))
    a, b = mesh.hosts
    for host, other in ((a, b), (b, a)):
        host.targets = (Target(other.address, PORT),)
        mesh.start(host)
    crossed = 0
    for _ in range(30):
        mesh.run(2.0)
        hashes = []
        for host, other in ((a, b), (b, a)):
            stream = host.router.neighbours.stream(other.name)
            assert stream is not None
            assert stream.remote is not None
            hashes.append(stream.remote.handshake_hash)
            assert host.router.neighbours.maker.half_open == 0
            assert host.router.neighbours.maker.active == 1
        assert hashes[0] == hashes[1]
        crossed += a.router.hub.counters[Refusal.DUPLICATE] > 0
        for host in (a, b):
            mesh.kill(host)
        for host in (a, b):
            mesh.start(host)
    assert crossed > 10, "they hardly ever crossed"
