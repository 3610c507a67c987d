"""Fastdp and sleeve on one mesh, under simulated trouble (docs/protocol.md 14)."""

from __future__ import annotations

import pytest

from mesh.link.overlay import Overlay
from tests.sim.overlay_story import story
from tests.sim.overlays import FALL_BACK, RETURN, Kind, OverlayMesh

CHAIN = [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_without_a_password_everything_goes_by_the_kernel() -> None:
    """protocol.md 14.1, 14.3: three hosts, every frame once, and none of them by the sleeve."""
    mesh = OverlayMesh(1, [Kind()] * 3)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 10)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    assert mesh.worker_frames() == 0


def test_a_chain_relays_in_the_kernel() -> None:
    """protocol.md 14.2: end to end over three relays, no daemon or worker sees a frame."""
    mesh = OverlayMesh(2, [Kind()] * 5, links=CHAIN)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    assert mesh.worker_frames() == 0
    choice = mesh.choice(0, 4)
    assert choice is not None
    assert (choice.path, choice.next_hop) == ("relayed", mesh.hosts[1].name)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ((False, None), "heartbeats-unanswered"),
        ((False, 1400), "big-frames-lost"),
        ((True, None), "heartbeats-unanswered"),
        ((True, 1400), "big-frames-lost"),
    ],
    ids=["all", "big", "one way", "big one way"],
)
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "learned"])
@pytest.mark.parametrize("seed", range(3))
def test_what_eats_the_tunnel_is_left_and_taken_again(
    seed: int, attached: bool, trouble: tuple[bool, int | None], reason: str
) -> None:
    """protocol.md 14.5: sleeve within 3 s, the kernel again within 60 s, nothing heard twice."""
    mesh = OverlayMesh(seed, [Kind()] * 2, attached=attached)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 10)
    mesh.talking = True
    mesh.run(3)
    mesh.forget_frames()
    mesh.eat(0, 1, one_way=trouble[0], longer_than=trouble[1])
    sleeve = {(0, 1): Overlay.SLEEVE}
    took = mesh.until(lambda: mesh.complaint(sleeve), FALL_BACK)
    words = {c.not_kernel for c in (mesh.choice(0, 1), mesh.choice(1, 0)) if c is not None}
    assert reason in words, f"after {took} s"
    assert words <= {reason, "down-at-peer"}, "who heard of it from the other end says so"
    mesh.assert_frames_pass()
    mesh.network.heal()
    mesh.until(lambda: mesh.complaint({}), RETURN)
    mesh.run(1)
    mesh.assert_at_most_once()
    mesh.talking = False
    mesh.forget_frames()
    before = mesh.worker_frames()
    mesh.assert_frames_pass()
    assert mesh.worker_frames() == before, "addresses are not left behind the sleeve"
    found = mesh.choice(1, 0)
    assert found is not None
    assert found.reason == "proven"
    made = [c.overlay for c in mesh.hosts[0].router.links.choices.made(mesh.hosts[1].name)]
    assert made[-3:] == [Overlay.FASTDP, Overlay.SLEEVE, Overlay.FASTDP]


def test_a_host_without_programs_is_served_by_the_sleeve() -> None:
    """protocol.md 14.1: the others keep the kernel among themselves; broadcasts once everywhere."""
    mesh = OverlayMesh(3, [Kind(), Kind(), Kind(fastdp=False), Kind()])
    mesh.join()
    want = {(n, 2): Overlay.SLEEVE for n in (0, 1)} | {(2, 3): Overlay.SLEEVE}
    mesh.until(lambda: mesh.complaint(want), 10)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    choice = mesh.choice(0, 2)
    assert choice is not None
    assert choice.not_kernel == "peer-without-fastdp"
    choice = mesh.choice(2, 0)
    assert choice is not None
    assert choice.not_kernel == "fastdp-off"


def test_a_relay_without_programs_parts_the_kernels() -> None:
    """protocol.md 14.2: nothing changes overlays on its way; both halves keep the kernel inside."""
    kinds = [Kind(), Kind(), Kind(fastdp=False), Kind(), Kind()]
    mesh = OverlayMesh(4, kinds, links=CHAIN)
    mesh.join()
    fast = {(0, 1), (3, 4)}
    want = {(a, b): Overlay.SLEEVE for b in range(5) for a in range(b) if (a, b) not in fast}
    mesh.until(lambda: mesh.complaint(want), 20)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    choice = mesh.choice(0, 4)
    assert choice is not None
    assert choice.not_kernel == "no-kernel-path"


@pytest.mark.parametrize(
    ("trusts", "overlay", "words"),
    [
        (("10.0.0.0/8", "10.0.0.0/8"), Overlay.FASTDP, ("", "")),
        (
            ("10.0.0.0/8", ""),
            Overlay.SLEEVE,
            ("subnet-not-trusted-by-peer", "subnet-not-trusted"),
        ),
        (("", ""), Overlay.SLEEVE, ("encrypted", "encrypted")),
        (("10.9.0.0/16", "10.0.0.0/8"), Overlay.SLEEVE, ("subnet-not-trusted", None)),
    ],
)
def test_a_password_leaves_the_kernel_to_whom_both_trust(
    trusts: tuple[str, str], overlay: Overlay, words: tuple[str, str | None]
) -> None:
    """protocol.md 14.1: one end that does not trust is enough for everything to be sealed."""
    mesh = OverlayMesh(5, [Kind(trusts=t) for t in trusts], password=True)
    mesh.join()
    mesh.until(lambda: mesh.complaint({(0, 1): overlay}), 15)
    mesh.run(5)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    assert (mesh.worker_frames() == 0) == (overlay is Overlay.FASTDP)
    for (a, b), word in zip(((0, 1), (1, 0)), words, strict=True):
        choice = mesh.choice(a, b)
        assert choice is not None
        assert word is None or choice.not_kernel == word


def test_those_who_trust_do_not_relay_for_others_in_clear() -> None:
    """protocol.md 14.1: in a sealed mesh the kernel serves neighbours alone."""
    kinds = [Kind(trusts="10.0.0.0/8")] * 3
    mesh = OverlayMesh(6, kinds, links=CHAIN[:2], password=True)
    mesh.join()
    mesh.until(lambda: mesh.complaint({(0, 2): Overlay.SLEEVE}), 15)
    mesh.forget_frames()
    mesh.assert_frames_pass()


def test_pods_of_another_mtu_are_served_by_the_sleeve() -> None:
    mesh = OverlayMesh(7, [Kind(), Kind(mtu=1300)])
    mesh.join()
    mesh.until(lambda: mesh.complaint({(0, 1): Overlay.SLEEVE}), 10)
    mesh.run(3)
    choice = mesh.choice(0, 1)
    assert choice is not None
    assert choice.not_kernel == "mtu-differs"


@pytest.mark.parametrize("seed", range(3))
def test_a_daemon_that_dies_costs_no_frame(seed: int) -> None:
    """protocol.md 14.6: the kernels go on; the next daemon takes over and corrects."""
    mesh = OverlayMesh(10 + seed, [Kind()] * 5, links=CHAIN)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.talking = True
    mesh.run(1)
    mesh.forget_frames()
    for victim in (1, 2, 0):
        host = mesh.hosts[victim]
        host.kill()
        mesh.run(mesh.rng.choice((0.5, 2.0, 20.0)))
        mesh.start(host)
        mesh.until(lambda: mesh.complaint({}), 20)
    mesh.run(2)
    mesh.assert_at_most_once()
    assert mesh.missed(until=mesh.clock.now() - 0.1) == []


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_story(seed: int) -> None:
    """protocol.md 14: whatever happens, nothing twice, and back where it belongs."""
    story(seed)
