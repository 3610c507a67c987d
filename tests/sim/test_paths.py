"""Data paths under trouble, in small; and proof that the story's assertions can fail.

docs/protocol.md 8.6: choice, fall-back, return; 10.6: segments.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.clock import Instant
from mesh.link import linkprobe, pathmtu
from mesh.link.pathmtu import PathMtu
from mesh.link.steadiness import Steadiness
from mesh.names import PeerName
from mesh.router import directs, view
from mesh.router.choices import HISTORY, Path
from mesh.topology import routes
from tests.sim.host import SimHost
from tests.sim.network import Weather
from tests.sim.paths import FALL_BACK, PathMesh, blocked_both_ways, story

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_paths_are_the_best_there_are(seed: int) -> None:
    story(seed)


def test_a_seed_replays_octet_for_octet() -> None:
    first, again = story(4, troubles=1), story(4, troubles=1)
    assert first.network.transcript.digest() == again.network.transcript.digest()


def fair(peers: int) -> PathMesh:
    mesh = PathMesh(1, peers)
    mesh.network.weather = Weather(mtu=1 << 16)
    mesh.join()
    return mesh


def test_a_history_of_choices() -> None:
    """protocol.md 8.6: each with time and reason, the last eight, no two alike in a row."""
    mesh = fair(3)
    a, b, _ = mesh.hosts
    for _ in range(HISTORY):
        blocked_both_ways(mesh, a, b)
        mesh.network.heal()
        mesh.until(mesh.complaint, 60.0)
    made = a.router.links.choices.made(b.name)
    assert len(made) == HISTORY
    assert [c.path for c in made] == [Path.RELAYED, Path.DIRECT] * (HISTORY // 2)
    left = [c for c in made if c.path is Path.RELAYED]
    assert {c.reason for c in left} == {"probes-unanswered"}
    assert {c.reason for c in made if c.path is Path.DIRECT} == {"proven"}
    (row,) = [r for r in a.router.status(mesh.clock.now()).links if r.peer == str(b.name)]
    assert (row.state, row.loss, row.steady) == ("direct", 0.0, True)
    assert row.history[0].ago == row.since
    assert [entry.path for entry in row.history] == [c.path for c in reversed(made)]


def test_two_hosts_alone_use_what_there_is() -> None:
    """protocol.md 8.6: with no other way a path on trial is better than none."""
    mesh = fair(2)
    a, b = mesh.hosts
    mesh.network.road(a.address, b.address).blocked.add(6784)
    mesh.run(FALL_BACK)
    choice = mesh.choice(a, b)
    assert choice is not None
    assert (choice.path, choice.reason) == (Path.DOWN, "probes-unanswered")
    mesh.network.heal()
    mesh.run(1.5)
    choice = mesh.choice(a, b)
    assert choice is not None
    assert (choice.path, choice.reason) == (Path.DIRECT, "on-trial")
    assert_frames(mesh, a, b)


def test_two_hosts_whose_connection_dies_go_on_exchanging_frames() -> None:
    """protocol.md 8.6: also those for everybody."""
    mesh = fair(2)
    a, b = mesh.hosts
    mesh.network.tear(a.address, b.address)
    mesh.run(20)
    assert not a.router.neighbours.by_peer
    assert_frames(mesh, a, b)
    a.worker.broadcast(b"who has")
    mesh.run(0.1)
    assert (a.name, b"who has") in b.received
    mesh.network.heal()
    mesh.run(30)
    assert a.router.neighbours.by_peer
    assert mesh.changes(a, b, 10.0) == []


def test_when_both_die_the_path_is_down_in_3_s() -> None:
    mesh = fair(3)
    a, b, _ = mesh.hosts
    mesh.network.tear(a.address, b.address)
    mesh.run(20)
    blocked_both_ways(mesh, a, b)


def test_a_connection_that_is_stuck_while_datagrams_pass_is_given_up() -> None:
    """protocol.md 9.2: the peer lives, and nothing that is said to it arrives."""
    mesh = fair(2)
    a, b = mesh.hosts
    mesh.network.stick(a.address, b.address)
    mesh.run(60)
    assert mesh.path(a, b) == [a, b]
    ended = [e.reason for e in a.router.neighbours.ended if e.was_up]
    assert ended == ["peer-silent"]


def test_a_peer_that_leaves_is_let_go_at_once() -> None:
    mesh = fair(3)
    a, b, _ = mesh.hosts
    b.perform(b.router.shutdown(mesh.clock.now()))
    mesh.run(0.5)
    assert b.name not in a.router.links.direct


def assert_frames(mesh: PathMesh, a: SimHost, b: SimHost) -> None:
    for src, dst in ((a, b), (b, a)):
        dst.received.clear()
        mesh.send(src, [dst])
        mesh.run(0.1)
        assert [name for name, _ in dst.received] == [src.name]


# ---- planted bugs: each must make the story fail


def never_confirms(patch: pytest.MonkeyPatch) -> None:
    """Search: a size that was answered once is believed for ever."""
    patch.setattr(pathmtu, "GIVE_UP", 1 << 30)
    patch.setattr(pathmtu, "GIVE_UP_LOSSY", 1 << 30)


def traffic_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    """Black hole: a path with traffic is looked at as rarely as one at rest."""
    patch.setattr(PathMtu, "traffic", lambda _self, _now: None)


def never_grows(patch: pytest.MonkeyPatch) -> None:
    """Search: nothing above the segment is tried again."""
    patch.setattr(pathmtu, "GROWTH_INTERVAL", 1e6)


def wider_of_both_directions(patch: pytest.MonkeyPatch) -> None:
    """Segment: a route is as wide as the wider of two directions."""
    graphs = routes._graphs

    def careless(*args: object) -> routes.Graphs:
        data, control, kernel = graphs(*args)  # type: ignore[arg-type]  # handed on
        mtus = {(a, b): mtu for a, edges in enumerate(data) for b, _, mtu in edges}
        wide = [
            [(b, cost, max(mtu, mtus[b, a])) for b, cost, mtu in edges]
            for a, edges in enumerate(data)
        ]
        return wide, control, kernel

    patch.setattr(routes, "_graphs", careless)


def big_datagrams_are_the_path(patch: pytest.MonkeyPatch) -> None:
    """Black hole: a size that is not answered ends the path instead of shrinking it."""

    def careless(self: PathMtu, _now: Instant, *, to: int) -> None:
        assert to
        self.stop()
        self.blocked = True

    patch.setattr(PathMtu, "_shrink", careless)


def no_hysteresis(patch: pytest.MonkeyPatch) -> None:
    """Hysteresis: a lost probe costs a path its trust, an answered one returns it."""

    def careless(self: Steadiness, _now: Instant, *, answered: bool) -> None:
        self.steady = answered

    patch.setattr(Steadiness, "saw", careless)


def patient(patch: pytest.MonkeyPatch) -> None:
    """Fall-back: silence is waited out for long."""
    patch.setattr(linkprobe, "DOWN_AFTER", 5.0)


def doubt_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Return: a path that was down once is never trusted again."""
    patch.setattr(Steadiness, "_fall", lambda self, _now: fall_for_good(self))


def fall_for_good(self: Steadiness) -> None:
    self.steady, self._trial = False, 1 << 30


def doubt_costs_nothing(patch: pytest.MonkeyPatch) -> None:
    """Choice: an unsteady path is as good as any."""
    patch.setattr(view, "UNSTEADY_US", 0)


def the_connection_is_the_path(patch: pytest.MonkeyPatch) -> None:
    """Liveness: a direct path dies with its connection."""
    end = directs.Directs.disconnected

    def careless(self: directs.Directs, peer: PeerName, _reason: str) -> None:
        end(self, peer, "shutting-down")

    patch.setattr(directs.Directs, "disconnected", careless)


@pytest.mark.parametrize(
    "plant",
    [
        never_confirms,
        traffic_is_not_seen,
        never_grows,
        wider_of_both_directions,
        big_datagrams_are_the_path,
        no_hysteresis,
        patient,
        doubt_for_ever,
        doubt_costs_nothing,
        the_connection_is_the_path,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_fails_the_story(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):  # noqa: PT012  # whichever seed shows it
        for seed in range(1, 30):
            story(seed)
