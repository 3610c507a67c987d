"""How a router watches its neighbours, seen from outside."""

from __future__ import annotations

from mesh.connection.maker import Target
from mesh.connection.reasons import Refusal
from mesh.router.events import ConnectionDown
from tests.sim.host import PORT, SimHost
from tests.sim.mesh import SimMesh
from tests.sim.network import Weather


def pair() -> tuple[SimMesh, SimHost, SimHost]:
    """Two that are connected and have nothing to say but probes."""
    mesh = SimMesh(1, 2, Weather())
    a, b = mesh.hosts
    b.targets = (Target(a.address, PORT),)
    mesh.start(a)
    mesh.start(b)
    mesh.run(8.0)
    assert a.router.reachable == {b.name}
    return mesh, a, b


def test_a_dead_neighbour_is_known_within_five_seconds() -> None:
    """protocol.md 9.2: by default; the connection ends with peer-silent on either side."""
    mesh, a, b = pair()
    mesh.network.cut(a.address, b.address)
    cut_at = mesh.clock.now()
    while a.router.reachable or b.router.reachable:
        mesh.run(0.25)
        assert mesh.clock.now() - cut_at <= 5.5
    for host in (a, b):
        (down,) = [e for e in host.events if isinstance(e, ConnectionDown) and e.established]
        assert down.reason == Refusal.SILENT


def test_a_suspicion_that_a_probe_disproves_is_no_longer_shown() -> None:
    """protocol.md 9.2: anything heard, on either port, is a sign of life."""
    mesh, a, b = pair()
    a.router.vigil.watched[b.name].suspected = True
    mesh.run(1.5)
    (row,) = a.router.status(mesh.clock.now()).connections
    assert (row.state, row.reason) == ("established", None)
