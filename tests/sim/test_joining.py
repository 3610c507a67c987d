"""A mesh that gets better loses nothing; and proof that this can fail.

docs/protocol.md 8.4 and 10.6. Hosts start one after the other, some paths between them carry
datagrams only later. From the moment at which every host has a way to every other, frames flow all
the time, while paths are proved, chosen and left for better ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from mesh.clock import Instant
from mesh.connection.maker import Target
from mesh.names import PeerName
from mesh.router import branches, pace, ways
from mesh.router.choices import Path
from mesh.wire import worker as w
from tests.sim.host import PORT, SLEEVE_PORT, SimHost
from tests.sim.network import Weather
from tests.sim.paths import FALL_BACK, PathMesh

Plant = Callable[[pytest.MonkeyPatch], None]

BEAT = 0.01
"""Seconds between two frames of everybody to everybody."""

SENT = 250

GAP = 5
"""Frames in a row that a pair may lose while news travel: 50 ms."""

LOST = 10
"""Broadcasts that may be lost in one story, all peers together: four were the most of many."""

MEET = 1.0
"""Seconds in which hosts that all run must have a way to each other, in fair weather."""


def joined(seed: int, *, late: bool) -> PathMesh:
    """Five hosts of which the first and the last never meet; in half of the directions datagrams
    pass only after up to three seconds, when ``late``."""
    mesh = PathMesh(seed, 5)
    mesh.network.weather = Weather(delay=(0.0001, 0.0005), mtu=1 << 16)
    rng, hosts = Random(seed), mesh.hosts
    mesh.network.fence(hosts[0].address, hosts[-1].address)
    for a, b in mesh.pairs():
        if late and rng.random() < 0.5:
            shut = mesh.network.road(a.address, b.address).blocked
            shut.add(SLEEVE_PORT)
            when = Instant(mesh.clock.now() + rng.uniform(0.5, 3))
            mesh.clock.call_at(when, partial(shut.discard, SLEEVE_PORT))
    for host in hosts:
        host.targets = tuple(Target(other.address, PORT) for other in hosts if other is not host)
        host.prepare()
        host.start()
        mesh.run(rng.uniform(0, 0.3))
    return mesh


def apart(mesh: PathMesh) -> str | None:
    for a, b in mesh.pairs():
        choice = mesh.choice(a, b)
        if choice is None or choice.path is Path.DOWN:
            return f"{a.address} has no way to {b.address}"
    return None


def meet(mesh: PathMesh, within: float) -> None:
    deadline = mesh.clock.now() + within
    while (found := apart(mesh)) is not None:
        assert mesh.clock.now() < deadline, f"{mesh}: {found}"
        mesh.run(BEAT)


def send_and_count(mesh: PathMesh) -> None:
    """Frames to all and for all, each once at each; what is lost must not be lost for long."""
    hosts = mesh.hosts
    for host in hosts:
        host.received.clear()
    ids = {host.name: host.router.topology.own.short_id for host in hosts}
    for number in range(SENT):
        for a in hosts:
            for b in hosts:
                short_id = ids[b.name]
                if a is not b and short_id is not None:
                    a.worker.unicast(short_id, b"one %d" % number)
            a.worker.broadcast(b"all %d" % number)
        mesh.run(BEAT)
    mesh.run(0.5)
    for b in hosts:
        got = Counter(b.received)
        for a in hosts:
            if a is not b:
                assert_few_lost(mesh, a.name, b, got)
    heard = Counter(host.address for host in hosts for _, f in host.received if f[:3] == b"all")
    lost = len(hosts) * (len(hosts) - 1) * SENT - heard.total()
    assert lost <= LOST, f"{mesh}: {lost} broadcasts lost, heard {heard}"


def assert_few_lost(
    mesh: PathMesh, source: PeerName, b: SimHost, got: Counter[tuple[PeerName, bytes]]
) -> None:
    for kind in (b"one", b"all"):
        row = 0
        for number in range(SENT):
            count = got[source, b"%s %d" % (kind, number)]
            assert count <= 1, f"{mesh}: {kind!r} {number} came {count} times to {b.address}"
            row = 0 if count else row + 1
            assert row <= GAP, f"{mesh}: {row} frames of {kind!r} in a row do not reach {b.address}"


def story(seed: int, *, late: bool) -> None:
    mesh = joined(seed, late=late)
    meet(mesh, 4.0 if late else MEET)
    send_and_count(mesh)


@pytest.mark.parametrize("seed", range(1, 9))
def test_paths_that_come_late_lose_nothing(seed: int) -> None:
    story(seed, late=True)


@pytest.mark.parametrize("seed", range(1, 5))
def test_hosts_that_start_meet_at_once(seed: int) -> None:
    story(seed, late=False)


def test_a_path_that_answers_is_used_whatever_its_other_end_says() -> None:
    """protocol.md 8.6: what goes straight to its end cannot go round."""
    mesh = joined(1, late=False)
    a, b = mesh.hosts[0], mesh.hosts[1]
    meet(mesh, MEET)
    mesh.run(3.0)
    assert mesh.path(a, b) == [a, b]
    heard = b.worker._say
    of_a = a.router.topology.own.short_id

    def deaf(message: w.FromWorker) -> None:
        if not (isinstance(message, w.ProbeReplied) and message.short_id == of_a):
            heard(message)

    b.worker._say = deaf
    mesh.run(FALL_BACK)
    assert len(mesh.path(b, a)) == 3
    assert mesh.path(a, b) == [a, b]
    mesh.assert_frames_pass()


# ---- planted bugs


def branches_cut_at_once(patch: pytest.MonkeyPatch) -> None:
    """Whoever hears of a new tree leaves the old one."""
    patch.setattr(branches, "HOLD", 0.0)


def lone_paths_for_ourselves(patch: pytest.MonkeyPatch) -> None:
    """A direct path waits until the mesh knows of it at both ends."""
    patch.setattr(ways, "_is_worth_it", lambda _direct, _cost: False)


def slow_routes(patch: pytest.MonkeyPatch) -> None:
    """A small mesh waits for its routes as long as a large one."""
    patch.setattr(pace, "ROUTES_PER_PEER", pace.ROUTES_INTERVAL)


@pytest.mark.parametrize(
    "plant",
    [branches_cut_at_once, slow_routes],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_fails_the_story(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):  # noqa: PT012  # whichever seed shows it
        for seed in range(1, 41):
            story(seed, late=False)
            story(seed, late=True)


def test_a_path_only_one_end_believes_in_can_go_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    lone_paths_for_ourselves(monkeypatch)
    with pytest.raises(AssertionError):
        test_a_path_that_answers_is_used_whatever_its_other_end_says()
