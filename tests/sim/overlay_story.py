"""``story(seed)``: a mesh of two overlays, trouble after trouble, each healed.

Pods talk all the time. Whatever happens, no frame is given to a pod twice; after every trouble each
pair is back on the overlay that the observer, who knows every road, says it belongs to.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random

from mesh.link.overlay import Overlay
from mesh.router.from_datapath import DatapathLost
from tests.sim.overlays import FALL_BACK, GOSSIP, RETURN, Kind, OverlayMesh


def story(seed: int, troubles: int = 4) -> OverlayMesh:
    rng = Random(seed)
    count = rng.randrange(2, 7)
    kinds = [Kind(fastdp=rng.random() < 0.8) for _ in range(count)]
    tree = [(rng.randrange(n), n) for n in range(1, count)]
    more = [(a, b) for b in range(count) for a in range(b) if rng.random() < 0.4]
    mesh = OverlayMesh(seed, kinds, links={*tree, *more})
    mesh.join()
    mesh.until(lambda: mesh.complaint(belongs(mesh)), 30)
    mesh.run(GOSSIP)
    mesh.assert_frames_pass()
    mesh.talking = True
    for _ in range(troubles):
        a, b = rng.choice(sorted(mesh.links))
        trouble = rng.choice((eaten, eaten_one_way, big_ones_eaten, killed, worker_died, gone, cut))
        mesh.troubles.append(f"{mesh.clock.now():.1f} {trouble.__name__} {a} {b}")
        trouble(mesh, a, b)
        mesh.network.heal()
        mesh.until(lambda: mesh.complaint(belongs(mesh)), RETURN + GOSSIP)
        mesh.talking = False
        passes(mesh)
        mesh.assert_at_most_once()
        mesh.talking = True
        mesh.run(rng.uniform(0, 5))
    return mesh


def passes(mesh: OverlayMesh) -> None:
    """Soon every frame passes: what is missed while a new cost spreads is not missed long."""
    for _ in range(5):
        mesh.run(GOSSIP)
        began = mesh.clock.now()
        with suppress(AssertionError):
            mesh.assert_frames_pass()
        if not mesh.missed(began):
            return
    mesh.assert_frames_pass()


def belongs(
    mesh: OverlayMesh, eaten: frozenset[tuple[int, int]] = frozenset()
) -> dict[tuple[int, int], Overlay]:
    """Who is served by the sleeve: whoever the kernels do not join, over links that carry them."""
    able = {
        (a, b)
        for a, b in mesh.links - eaten
        if all(mesh.hosts[n].kernel is not None and works(mesh, n) for n in (a, b))
    }
    joined = {n: {n} for n in range(len(mesh.hosts))}
    for a, b in able:
        both = joined[a] | joined[b]
        for n in both:
            joined[n] = both
    return {
        (a, b): Overlay.SLEEVE
        for b in range(len(mesh.hosts))
        for a in range(b)
        if b not in joined[a]
    }


def works(mesh: OverlayMesh, n: int) -> bool:
    kernel = mesh.hosts[n].kernel
    return kernel is not None and kernel.works


# ---- troubles


def eaten(mesh: OverlayMesh, a: int, b: int) -> None:
    mesh.eat(a, b)
    _left(mesh, a, b)


def eaten_one_way(mesh: OverlayMesh, a: int, b: int) -> None:
    mesh.eat(a, b, one_way=True)
    _left(mesh, a, b)


def big_ones_eaten(mesh: OverlayMesh, a: int, b: int) -> None:
    mesh.eat(a, b, one_way=mesh.rng.random() < 0.5, longer_than=1400)
    _left(mesh, a, b)


def _left(mesh: OverlayMesh, a: int, b: int) -> None:
    """Within 3 s, and what it takes the rest of the mesh to hear of it."""
    want = belongs(mesh, frozenset({(a, b)}))
    mesh.until(lambda: mesh.complaint(want), FALL_BACK + GOSSIP)
    mesh.run(mesh.rng.uniform(0, 10))


def killed(mesh: OverlayMesh, a: int, b: int) -> None:
    """The kernel goes on while the daemon is away; without one its pods wait for the next."""
    host = mesh.hosts[a]
    host.kill()
    mesh.run(mesh.rng.choice((0.5, 3.0, 20.0)))
    mesh.start(host)


def worker_died(mesh: OverlayMesh, a: int, b: int) -> None:
    mesh.hosts[a].kill_worker()
    mesh.run(12)  # until the sleeve has proven its own paths again


def gone(mesh: OverlayMesh, a: int, b: int) -> None:
    """Somebody deletes the kernel's device; it is made anew after a while."""
    kernel = mesh.hosts[a].kernel
    if kernel is None or kernel.heard is None:
        return
    kernel.break_down()
    kernel.heard(DatapathLost("device-gone"))
    mesh.until(lambda: mesh.complaint(belongs(mesh)), RETURN)
    mesh.run(mesh.rng.uniform(0, 6))
    kernel.mend()


def cut(mesh: OverlayMesh, a: int, b: int) -> None:
    """Nothing passes between two, for so long that connections break."""
    mesh.network.cut(mesh.hosts[a].address, mesh.hosts[b].address)
    mesh.run(mesh.rng.choice((1.0, 5.0, 20.0)))
