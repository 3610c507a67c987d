"""Fastdp and sleeve on one mesh, under simulated trouble (docs/protocol.md 14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mesh.link import heartbeat, overlay, snooping, steadiness
from mesh.link.datapath import Tables, Tree
from mesh.link.heartbeat import Heartbeat
from mesh.link.overlay import End, Obstacle, Overlay
from mesh.names import ShortID
from mesh.router import fastdp, grouping, onward, router, steering
from mesh.router.fastdp import Fastdp
from mesh.topology import routes
from tests.sim.overlay_story import story
from tests.sim.overlays import FALL_BACK, GOSSIP, RETURN, Kind, OverlayMesh

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


def test_addresses_are_not_left_behind_the_sleeve() -> None:
    """protocol.md 14.2: also those that are known by their frames alone, and speak to one only:
    what is under way when one end changes puts them there again, so it takes some seconds."""
    mesh = OverlayMesh(8, [Kind()] * 2, attached=False)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 10)
    mesh.assert_frames_pass()
    mesh.eat(0, 1)
    mesh.until(lambda: mesh.complaint({(0, 1): Overlay.SLEEVE}), FALL_BACK)

    def ask_and_answer() -> None:
        for src, dst in ((0, 1), (1, 0)):
            mesh.send(src, dst)
            mesh.run(0.02)

    ask_and_answer()
    mesh.network.heal()
    while mesh.complaint({}) is not None:
        ask_and_answer()
    for _ in range(250):
        ask_and_answer()
    mesh.forget_frames()
    for _ in range(5):
        ask_and_answer()
    assert mesh.worker_frames() == 0
    assert mesh.missed() == []


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
    ("trusts", "by", "words"),
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
    trusts: tuple[str, str], by: Overlay, words: tuple[str, str | None]
) -> None:
    """protocol.md 14.1: one end that does not trust is enough for everything to be sealed."""
    mesh = OverlayMesh(5, [Kind(trusts=t) for t in trusts], password=True)
    mesh.join()
    mesh.until(lambda: mesh.complaint({(0, 1): by}), 15)
    mesh.run(5)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    assert (mesh.worker_frames() == 0) == (by is Overlay.FASTDP)
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


def test_the_kernel_answers_what_pods_of_less_would_not_take() -> None:
    """protocol.md 14.7: a pair's MTU is its smaller end's; over a relay the smallest of all."""
    mesh = OverlayMesh(7, [Kind(mtu=8950), Kind(mtu=1450), Kind(mtu=8950)], links=CHAIN[:2])
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.forget_frames()
    mesh.assert_frames_pass()
    assert mesh.mtus(0) == {1: 1450, 2: 1450}
    assert mesh.mtus(1) == {0: 1450, 2: 1450}
    assert mesh.too_big(0, 2, 1450) == []
    answer = mesh.too_big(0, 2, 1451)
    assert [octets[40:42] for octets in answer] == [(1450).to_bytes(2, "big")]


def test_an_mtu_that_changes_is_followed() -> None:
    """protocol.md 14.7: less is heeded by everybody at once, more when both ends have it."""
    mesh = OverlayMesh(8, [Kind(mtu=8950)] * 3)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 10)
    mesh.run(15)
    assert mesh.mtus(0) == {1: 8950, 2: 8950}
    mesh.talking = True
    for mtu in (1450, 8950):
        mesh.forget_frames()
        host = mesh.hosts[0]
        host.perform(host.router.set_mtu(mtu, mesh.clock.now()))
        mesh.run(3)
        assert mesh.complaint({}) is None, "nobody leaves the kernel for that"
        assert mesh.mtus(0) == {1: mtu, 2: mtu}
        assert mesh.mtus(1) == {0: mtu, 2: 8950}
    mesh.talking = False
    mesh.run(0.1)
    assert mesh.missed() == []


def test_a_path_of_less_than_both_ends_have_is_found_out() -> None:
    """protocol.md 14.7: hosts of 9,000 with 1,500 between them, of which nobody tells."""
    mesh = OverlayMesh(9, [Kind(mtu=8950)] * 2)
    one, other = (host.address for host in mesh.hosts)
    for src, dst in ((one, other), (other, one)):
        mesh.network.road(src, dst).mtu = 1500
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    assert mesh.mtus(0) == {1: 1450}
    assert mesh.mtus(1) == {0: 1450}
    mesh.run(30)
    assert mesh.complaint({}) is None


def test_a_path_of_less_than_ipv6_wants_is_the_sleeve_s() -> None:
    """protocol.md 14.7: no pod can be told of less than 1,280 octets."""
    mesh = OverlayMesh(10, [Kind(mtu=1450)] * 2)
    one, other = (host.address for host in mesh.hosts)
    for src, dst in ((one, other), (other, one)):
        mesh.network.road(src, dst).mtu = 1320
    mesh.join()
    mesh.until(lambda: mesh.complaint({(0, 1): Overlay.SLEEVE}), 20)
    mesh.run(30)
    choice = mesh.choice(0, 1)
    assert choice is not None
    assert (choice.overlay, choice.not_kernel) == (Overlay.SLEEVE, "big-frames-lost")


@pytest.mark.parametrize("seed", range(6))
def test_a_pair_that_changes_its_overlay_over_relays_loses_no_unicast(seed: int) -> None:
    """protocol.md 14.2: one tunnel of a chain eats large frames; small ones pass all the time, so
    whoever does not know yet is served the old way, there and back."""
    mesh = OverlayMesh(20 + seed, [Kind()] * 5, links=CHAIN)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.talking = True
    mesh.run(3)
    mesh.forget_frames()
    mesh.eat(2, 3, longer_than=1400)
    parted = {(a, b): Overlay.SLEEVE for a in range(3) for b in range(3, 5)}
    mesh.until(lambda: mesh.complaint(parted), FALL_BACK + GOSSIP)
    mesh.run(3)
    mesh.network.heal()
    mesh.until(lambda: mesh.complaint({}), RETURN + GOSSIP)
    mesh.run(3)
    mesh.talking = False
    mesh.run(0.2)
    mesh.assert_at_most_once()
    heard = mesh.heard()
    unicast = [(f, dst, when) for f, (when, _, dst) in mesh.sent.items() if dst is not None]
    lost = [(when, dst) for frame, dst, when in unicast if not heard.get((frame, dst))]
    assert lost == []
    for host in mesh.hosts:
        assert host.kernel is not None
        assert host.kernel.twin.tables().onward == {}, "and not for longer than it takes"


JOIN, LEAVE = 0x16, 0x17


def listening(mesh: OverlayMesh, *hosts: int) -> None:
    """All of this has been known for a while, and these have joined."""
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.run(15)
    for host in hosts:
        mesh.report(host, JOIN)
    mesh.run(1)


@pytest.mark.parametrize("links", [None, CHAIN], ids=["full", "chain"])
def test_a_group_is_heard_where_it_is_listened_to(links: list[tuple[int, int]] | None) -> None:
    """protocol.md 14.9: there and nowhere else, over relays that do not listen themselves."""
    mesh = OverlayMesh(30, [Kind()] * 5, links=links)
    mesh.join()
    listening(mesh)
    assert mesh.group_frame(0) == {1, 2, 3, 4}, "whom nobody asked for goes to all"
    mesh.report(3, JOIN)
    mesh.run(1)
    assert mesh.group_frame(0) == {3}
    assert mesh.group_frame(3) == set()
    mesh.report(1, JOIN)
    mesh.report(4, JOIN)
    mesh.run(1)
    assert [mesh.group_frame(n) for n in range(5)] == [
        {1, 3, 4},
        {3, 4},
        {1, 3, 4},
        {1, 4},
        {1, 3},
    ]
    mesh.report(4, LEAVE)
    mesh.run(1)
    assert mesh.group_frame(0) == {1, 3}
    mesh.assert_frames_pass()


def test_a_membership_ends_when_nobody_answers() -> None:
    mesh = OverlayMesh(31, [Kind()] * 3)
    mesh.join()
    listening(mesh, 1)
    assert mesh.group_frame(0) == {1}
    mesh.run(240)
    assert mesh.group_frame(0) == {1}
    mesh.run(30)
    assert mesh.group_frame(0) == {1, 2}, "nobody listens, as far as is known"


def test_who_does_not_say_what_it_listens_to_hears_everything() -> None:
    """protocol.md 14.9: hosts that are served by the sleeve, or that have just started."""
    mesh = OverlayMesh(32, [Kind(), Kind(), Kind(), Kind(fastdp=False)])
    mesh.join()
    by_sleeve = {(n, 3): Overlay.SLEEVE for n in range(3)}
    mesh.until(lambda: mesh.complaint(by_sleeve), 20)
    mesh.run(15)
    mesh.report(1, JOIN)
    mesh.run(1)
    assert mesh.group_frame(0) == {1, 3}
    assert mesh.group_frame(3) == {0, 1, 2}, "the sleeve's own go to all"


@pytest.mark.parametrize("seed", range(3))
def test_a_group_is_heard_while_daemons_start_again(seed: int) -> None:
    """protocol.md 14.6: what is not known yet costs no listener a frame."""
    mesh = OverlayMesh(33 + seed, [Kind()] * 5, links=CHAIN)
    mesh.join()
    listening(mesh, 2, 4)
    for victim in (1, 4, 0):
        host = mesh.hosts[victim]
        host.kill()
        for after in (0.5, 1.0, 3.0):
            assert mesh.group_frame(0) >= {2, 4}
            mesh.run(after)
        mesh.start(host)
        for half in range(40):
            assert mesh.group_frame(0) >= {2, 4}
            mesh.run(0.3)
            if half == 10:
                mesh.report(4, JOIN)  # asked by the new daemon
    mesh.run(20)
    assert mesh.group_frame(0) == {2, 4}


@pytest.mark.parametrize("seed", range(6))
def test_a_daemon_that_dies_costs_no_frame(seed: int) -> None:
    """protocol.md 14.6: the kernels go on; the next daemon takes over and corrects."""
    mesh = OverlayMesh(10 + seed, [Kind()] * 5, links=CHAIN)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.talking = True
    mesh.run(1)
    began = mesh.clock.now()
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
    for host in mesh.hosts:
        for other in mesh.hosts:
            made = [c for c in host.router.links.choices.made(other.name) if c.at > began]
            assert all(c.overlay is Overlay.FASTDP for c in made), "there and back costs frames"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("late", [1.0, 2.0, 3.0, 4.0])
def test_a_daemon_that_comes_back_at_once_and_opens_late_costs_no_frame(
    seed: int, late: float
) -> None:
    """protocol.md 14.6: its path is still well when it connects, and falls silent just then."""
    mesh = OverlayMesh(40 + seed, [Kind()] * 5, links=CHAIN)
    mesh.join()
    mesh.until(lambda: mesh.complaint({}), 20)
    mesh.talking = True
    mesh.run(5)
    mesh.forget_frames()
    began = mesh.clock.now()
    for victim in (1, 2, 0):
        host = mesh.hosts[victim]
        host.opens_after = late
        host.kill()
        mesh.run(0.3)
        mesh.start(host)
        mesh.run(20)
        assert mesh.complaint({}) is None
    mesh.talking = False
    mesh.run(0.1)
    mesh.assert_at_most_once()
    assert mesh.missed() == []
    for host in mesh.hosts:
        for other in mesh.hosts:
            made = [c for c in host.router.links.choices.made(other.name) if c.at > began]
            left = [c for c in made if c.overlay is Overlay.SLEEVE]
            assert all(c.not_kernel == "not-started" for c in left), "there and back costs frames"


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_story(seed: int) -> None:
    """protocol.md 14: whatever happens, nothing twice, and back where it belongs."""
    story(seed)


# ---- planted bugs

Plant = Callable[[pytest.MonkeyPatch], None]
Story = Callable[[], object]
CHANGE = test_what_eats_the_tunnel_is_left_and_taken_again


def nobody_is_gated(patch: pytest.MonkeyPatch) -> None:
    """Receivers: broadcasts are heard by the kernel of whoever sends them."""

    def open_to_all(parent: ShortID | None, *rest: object) -> Tree:
        return Tree(None, *rest)  # type: ignore[arg-type]  # handed on

    patch.setattr(steering, "Tree", open_to_all)


def one_end_s_trust_is_enough(patch: pytest.MonkeyPatch) -> None:
    """Choice: an end that trusts takes the other's trust for granted."""
    judge = overlay.obstacle

    def careless(ours: End, theirs: End, *, encrypted: bool) -> Obstacle | None:
        either = ours.trusts or theirs.trusts
        return judge(
            replace(ours, trusts=either), replace(theirs, trusts=either), encrypted=encrypted
        )

    patch.setattr(fastdp, "obstacle", careless)


def sealed_meshes_relay_in_clear(patch: pytest.MonkeyPatch) -> None:
    """Routes: who trusts its neighbour is trusted with the frames of others."""
    patch.setattr(
        router, "compute", lambda records, us, **_: routes.compute(records, us, kernel_relays=True)
    )


def small_heartbeats(patch: pytest.MonkeyPatch) -> None:
    """Health: a path is asked with small frames only."""
    patch.setattr(fastdp, "Heartbeat", lambda rng, _size: Heartbeat(rng, 65))
    patch.setattr(Heartbeat, "resize", lambda *_: None)


def heartbeats_keep_their_size(patch: pytest.MonkeyPatch) -> None:
    """MTU: what a path is found to carry changes nothing."""
    patch.setattr(Heartbeat, "resize", lambda *_: None)


def paths_are_not_asked(patch: pytest.MonkeyPatch) -> None:
    """MTU: a pair's is its ends' alone."""
    patch.setattr(fastdp, "carried", lambda _: None)


def relays_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """MTU: a path's is its two ends'."""
    patch.setattr(routes, "_packet", lambda *_: 65_000)


def relays_change_at_once(patch: pytest.MonkeyPatch) -> None:
    """Change: a relay has no way for others where it has none for its own."""
    patch.setattr(onward, "HOLD", 0.0)


def who_comes_is_not_let_in(patch: pytest.MonkeyPatch) -> None:
    """Change: frames come from whom we serve by the kernel ourselves, and from nobody else."""
    patch.setattr(steering, "MAX_SOURCES", 0)


def new_daemons_are_on_trial(patch: pytest.MonkeyPatch) -> None:
    """Take-over: silence of a daemon that is not ready yet is the way's fault."""
    patch.setattr(Fastdp, "_begin_anew", lambda *_: None)


def nothing_is_said_until_it_is_known(patch: pytest.MonkeyPatch) -> None:
    """Take-over: a new daemon says it has no fast path before it has looked."""
    patch.setattr(fastdp, "NOT_STARTED", "")


def the_sleeve_comes_first(patch: pytest.MonkeyPatch) -> None:
    """Take-over: whoever the sleeve reaches before the kernel is looked at is the sleeve's."""
    patch.setattr(fastdp, "PATIENCE", 0.0)


def nobody_listens_until_it_is_said(patch: pytest.MonkeyPatch) -> None:
    """Groups: who does not say what it listens to is sent none of them."""
    patch.setattr(grouping, "_listens", lambda groups, group: group in (groups or ()))


def what_was_not_asked_is_known(patch: pytest.MonkeyPatch) -> None:
    """Groups: a new daemon says what its pods listen to before they could answer."""
    patch.setattr(snooping, "STARTUP_INTERVAL", 0.0)
    patch.setattr(snooping, "RESPONSE", 0.0)


def relays_listen_for_themselves(patch: pytest.MonkeyPatch) -> None:
    """Groups: a branch is cut where its first peer does not listen."""
    patch.setattr(
        routes.Routes, "kernel_branches", lambda _self, _origin, wanted: frozenset(wanted)
    )


def memberships_last(patch: pytest.MonkeyPatch) -> None:
    """Groups: who stopped to answer listens for ever."""
    patch.setattr(snooping, "LISTENS", 1e9)


def patient(patch: pytest.MonkeyPatch) -> None:
    """Health: silence is waited out."""
    patch.setattr(heartbeat, "DOWN_AFTER", 30.0)


def never_forgiven(patch: pytest.MonkeyPatch) -> None:
    """Health: a path that fell once is on trial for ever."""
    patch.setattr(steadiness, "TRIAL_FIRST", 10_000)
    patch.setattr(steadiness, "TRIAL_MAX", 10_000)


def a_new_daemon_begins_anew(patch: pytest.MonkeyPatch) -> None:
    """Take-over: what the view does not have yet is taken out of the tables."""
    patch.setattr(fastdp, "held_over", lambda *_: set())


def broadcasts_are_not_held(patch: pytest.MonkeyPatch) -> None:
    """Take-over: the trees of others lose whom nobody is known to reach."""
    patch.setattr(steering, "_keep_children", lambda *_: None)


def placeholders_stay(patch: pytest.MonkeyPatch) -> None:
    """Change: addresses that were learned behind the sleeve stay there."""
    patch.setattr(fastdp, "went_to_kernel", lambda *_: False)


def the_sleeve_is_not_asked(patch: pytest.MonkeyPatch) -> None:
    """Senders: the kernel hands the sleeve nothing of what is for everybody."""
    steer = steering.steer

    def never(*args: object) -> object:
        tables, ways = steer(*args)  # type: ignore[arg-type]  # handed on
        tables.trees = {o: replace(t, to_sleeve=False) for o, t in tables.trees.items()}
        return tables, ways

    patch.setattr(fastdp, "steer", never)


def sources_of_others_are_let_in_nowhere(patch: pytest.MonkeyPatch) -> None:
    """Sources: an address may bring its own frames only."""

    def own_only(tables: Tables, *args: Any) -> None:
        _, ids, _, _, hosts = args
        tables.sources = {(host, ids[peer]) for peer, host in hosts.items()}

    patch.setattr(steering, "_let_in", own_only)


CASES: list[tuple[Plant, Story]] = [
    (nobody_is_gated, lambda: [story(seed) for seed in range(1, 30)]),
    (
        one_end_s_trust_is_enough,
        lambda: test_a_password_leaves_the_kernel_to_whom_both_trust(
            ("10.0.0.0/8", "10.9.0.0/16"), Overlay.SLEEVE, ("", None)
        ),
    ),
    (sealed_meshes_relay_in_clear, test_those_who_trust_do_not_relay_for_others_in_clear),
    (small_heartbeats, lambda: CHANGE(1, True, (False, 1400), "big-frames-lost")),
    (heartbeats_keep_their_size, test_a_path_of_less_than_both_ends_have_is_found_out),
    (paths_are_not_asked, test_a_path_of_less_than_both_ends_have_is_found_out),
    (relays_do_not_count, test_the_kernel_answers_what_pods_of_less_would_not_take),
    (
        relays_change_at_once,
        lambda: test_a_pair_that_changes_its_overlay_over_relays_loses_no_unicast(0),
    ),
    (
        who_comes_is_not_let_in,
        lambda: test_a_pair_that_changes_its_overlay_over_relays_loses_no_unicast(2),
    ),
    *(
        (plant, lambda: test_a_daemon_that_comes_back_at_once_and_opens_late_costs_no_frame(0, 3.0))
        for plant in (
            new_daemons_are_on_trial,
            nothing_is_said_until_it_is_known,
            the_sleeve_comes_first,
        )
    ),
    (nobody_listens_until_it_is_said, test_who_does_not_say_what_it_listens_to_hears_everything),
    (what_was_not_asked_is_known, lambda: test_a_group_is_heard_while_daemons_start_again(0)),
    (
        relays_listen_for_themselves,
        lambda: test_a_group_is_heard_where_it_is_listened_to(CHAIN),
    ),
    (memberships_last, test_a_membership_ends_when_nobody_answers),
    (patient, lambda: CHANGE(1, True, (False, None), "heartbeats-unanswered")),
    (never_forgiven, lambda: CHANGE(1, True, (False, None), "heartbeats-unanswered")),
    (a_new_daemon_begins_anew, lambda: test_a_daemon_that_dies_costs_no_frame(0)),
    (broadcasts_are_not_held, lambda: test_a_daemon_that_dies_costs_no_frame(0)),
    (placeholders_stay, test_addresses_are_not_left_behind_the_sleeve),
    (the_sleeve_is_not_asked, test_a_host_without_programs_is_served_by_the_sleeve),
    (sources_of_others_are_let_in_nowhere, test_a_chain_relays_in_the_kernel),
]


@pytest.mark.parametrize(("plant", "found_by"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_planted_bug_fails(
    plant: Plant, found_by: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        found_by()
