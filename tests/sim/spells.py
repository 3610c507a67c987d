"""Spells of loss under streams between pods, and what the size of records makes of them (10.9).

Each spell is a trouble of the stories of paths: the loss comes under a stream of records as large
as they come, stays, goes, and the records are as large again. Everything on the way is real: the
loss is of single datagrams, reports of it are lost as well, and probes share the records' numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.sim.host import SLEEVE_PORT, SimHost
from tests.sim.network import Weather
from tests.sim.paths import FALL_BACK, GOSSIP, RETURN, SHRINK, PathMesh
from tests.sim.transfers import Transfer, is_small
from tests.sim.worker import TICK

LOSSES = (0.005, 0.01, 0.02, 0.05)
REPORTS_LOST = (0.0, 0.15)
"""Of what comes back. With more of it, frames had better go round."""

SPELL = 15.0
"""Seconds of a stream that are compared, from the loss's first datagram on."""

CONVERGE = 6.0
"""Seconds of loss after which records are small: a slow stream lost a handful by then."""

FEW = 0.25
"""Rounds that may go out in larger ones after that: slow streams have few in all."""

SMALL = 15.0
"""Seconds within which that must have been so once: a stream that waits for TCP's timer again and
again sends a hundred datagrams in one, and loses one of these."""

MARGIN = 0.6
"""What a stream has at the least of one of single datagrams: of two spells, with the same dice or
records, one may well be a third slower. Over many they are equal
(``tests/sim/test_spells.py``)."""

SEARCHED = 5.0
"""Seconds until no search for a path's MTU, whose lost probes excuse some lost records, goes on."""

SWINGS = 2
"""Changes of direction by more than the double in one spell of steady loss."""

BACK = 15.0
"""Seconds until records are as large as they come, when no datagram is lost any more; where a size
had failed by chance and the stream is so slow that little tells it that the loss has gone, so long
after that size's pause."""


def on_the_direct_path(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    with fair(mesh):
        endure(mesh, a, b)


def on_a_relayed_path(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """The relay knows nothing of records; reports go through it as well."""
    with fair(mesh):
        block(mesh, a, b)
        mesh.run(FALL_BACK)
        assert len(mesh.path(a, b)) > 2
        endure(mesh, a, b)


def while_the_path_changes(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """The direct road loses, the way round does not: what is known of one is not of the other."""
    with fair(mesh):
        stream = Transfer(mesh, a, b).start()
        stream.until_largest(BACK)
        share = lose(mesh, a, [b])
        until_small(mesh, stream, share)
        block(mesh, a, b)
        mesh.run(FALL_BACK + TICK)
        assert len(mesh.path(a, b)) > 2
        stream.until_largest(TICK)
        mesh.network.road(b.address, a.address).loss = 0.0  # on trial it may lose one in eight
        mesh.network.heal()
        mesh.until(lambda: None if len(mesh.path(a, b)) == 2 else "goes round", RETURN)
        mesh.run(TICK)
        until_small(mesh, stream, share)
        recover(mesh, stream, a)


def while_the_road_narrows(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    """Datagrams become smaller under loss, and larger again: what fits one goes in one."""
    with fair(mesh):
        mesh.busy = True
        stream = Transfer(mesh, a, b).start()
        stream.until_largest(BACK)
        share = lose(mesh, a, mesh.hosts)
        mesh.run(CONVERGE)
        before = {host: mesh.fits(a, host) + 28 for host in mesh.hosts if host is not a}
        for host, mtu in before.items():
            mesh.widen(a, host, min(mtu, mesh.rng.choice((700, 1280, 1400))))
        mesh.until(mesh.oversized, SHRINK + GOSSIP)
        mesh.run(BACK)
        until_small(mesh, stream, share)
        for host, mtu in before.items():
            mesh.widen(a, host, mtu)
        recover(mesh, stream, a)


SPELLS = (
    on_the_direct_path,
    on_the_direct_path,
    on_a_relayed_path,
    while_the_path_changes,
    while_the_road_narrows,
)


def spell(mesh: PathMesh) -> None:
    """One of them, between two hosts on a direct path, drawn by the mesh's own dice."""
    a, b = mesh.rng.choice([(a, b) for a, b in mesh.pairs() if mesh.path(a, b) == [a, b]])
    kind = mesh.rng.choice(SPELLS)
    mesh.troubles.append(f"{mesh.clock.now():.1f} {kind.__name__} {a.address} {b.address}")
    kind(mesh, a, b)
    mesh.network.heal()
    mesh.until(mesh.complaint, RETURN + GOSSIP)
    mesh.assert_frames_pass()


def endure(mesh: PathMesh, a: SimHost, b: SimHost) -> tuple[float, float]:
    """Loss on all ways out of a host, that is on one road of each path. What a stream moved, and
    one of single datagrams, in octets a second."""
    stream = Transfer(mesh, a, b).start()
    stream.until_largest(BACK)
    share = lose(mesh, a, mesh.hosts)
    began = mesh.clock.now()
    adapted = stream.run(SPELL)
    sizes = [size for at, size in stream.sizes if at >= began + CONVERGE]
    large = [size for size in sizes if not is_small(size, share)]
    assert len(large) <= FEW * len(sizes), f"{mesh}: records of {large} at {share}"
    assert stream.swings(began + CONVERGE) <= SWINGS, f"{mesh} at {share}: {sizes}"
    stream.stop()
    single = Transfer(mesh, a, b, single=True).start()
    alone = single.run(SPELL)
    single.stop()
    assert adapted >= MARGIN * alone, f"{mesh}: {adapted:.0f} of {alone:.0f} at {share}"
    recover(mesh, stream.start(), a)
    return adapted, alone


def until_small(mesh: PathMesh, stream: Transfer, share: float) -> None:
    def complaint() -> str | None:
        datagrams = stream.size.datagrams
        return None if is_small(datagrams, share) else f"records of {datagrams} at {share}"

    mesh.until(complaint, SMALL)


def recover(mesh: PathMesh, stream: Transfer, a: SimHost) -> None:
    for src, dst in mesh.pairs():
        if a in (src, dst):
            mesh.network.road(src.address, dst.address).loss = 0.0
    now, size = mesh.clock.now(), stream.size
    pause = 0.0 if size._ceiling is None else max(0.0, size._retry_at - now)
    stream.until_largest(pause + BACK)
    began = mesh.clock.now()
    mesh.run(1.0)
    assert stream.less_at < began, f"{mesh}: small again without a loss"
    stream.stop()


def lose(mesh: PathMesh, a: SimHost, others: list[SimHost]) -> float:
    """What a sends to these is lost to a share, which is returned; what they send back, too."""
    share, back = mesh.rng.choice(LOSSES), mesh.rng.choice(REPORTS_LOST)
    for other in others:
        mesh.network.road(a.address, other.address).loss = share
        mesh.network.road(other.address, a.address).loss = back
    mesh.troubles[-1] += f" loses {share}, {back} back"
    return share


def block(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    for src, dst in ((a, b), (b, a)):
        mesh.network.road(src.address, dst.address).blocked.add(SLEEVE_PORT)


@contextmanager
def fair(mesh: PathMesh) -> Iterator[None]:
    """Nothing is lost but what the spell makes lost; datagrams still overtake and double."""
    weather, busy = mesh.network.weather, mesh.busy
    mesh.network.weather, mesh.busy = Weather(duplicate=0.01, mtu=1 << 16), False
    mesh.run(SEARCHED)
    yield
    mesh.network.weather, mesh.busy = weather, busy
