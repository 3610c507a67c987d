"""The topology channel: what merges, what is refused, overtaking, collection."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from unittest.mock import patch

import pytest

from mesh.clock import Instant
from mesh.errors import OperatorError
from mesh.gossip.channel import Item
from mesh.names import Endpoint, PeerUID
from mesh.topology import topology as module
from mesh.topology.forgotten import MAX_FORGOTTEN, Forgotten
from mesh.topology.record import MAX_EDGES, Record
from mesh.topology.topology import MAX_FORGED, Topology
from tests.sim.views import edge, identity, item, name, record, topology

NOW = Instant(100.0)
SOURCE = name(99)


def merged(to: Topology, *items: Item, now: float = NOW) -> tuple[list[bytes], list[str]]:
    outcome = to.merge(items, SOURCE, Instant(now))
    return list(outcome.news), [refused.reason for refused in outcome.rejected]


# ---- merging


def test_a_genuine_record_is_held_and_offered_to_others() -> None:
    """protocol.md 7.2: what was verified merges, and is relayed octet for octet."""
    view = topology(1)
    of = record(2, 5, [edge(3)])
    assert merged(view, item(of)) == ([of.name.octets], [])
    assert view.records[of.name] == of
    assert view.items([of.name.octets, b"nobody", b"\0" * 8]) == [item(of)]
    assert view.digest()[of.name.octets] == of.stamp
    assert merged(view, item(of)) == ([], [])


def test_newer_wins() -> None:
    """protocol.md 7.2: the higher version, then the higher UID."""
    view = topology(1)
    for version, uid, wins in [
        (5, 5, True),
        (4, 9, False),
        (5, 4, False),
        (5, 6, True),
        (6, 1, True),
    ]:
        of = record(2, version, uid=uid)
        assert merged(view, item(of)) == ([of.name.octets] if wins else [], [])
        assert (view.records[of.name] == of) is wins


def test_altered_and_invented_records_die_here() -> None:
    """protocol.md 7.2: every altered octet is refused; the genuine record then merges."""
    view = topology(1)
    good = item(record(2, 5, [edge(3)]))
    for place in range(len(good.payload)):
        octets = bytearray(good.payload)
        octets[place] ^= 1
        news, reasons = merged(view, replace(good, payload=bytes(octets)))
        assert news == []
        assert reasons[0] in ("bad-signature", "mislabelled", "malformed-message")
    assert name(2) not in view.records
    assert merged(view, good) == ([good.key], [])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Item(name(3).octets, record(2, 5).stamp, record(2, 5).encode()), "mislabelled"),
        (Item(name(2).octets, record(2, 6).stamp, record(2, 5).encode()), "mislabelled"),
        (Item(b"short", 1, record(2, 5).encode()), "mislabelled"),
        (Item(name(2).octets, 1, b""), "malformed-message"),
        (
            item(replace(record(2, 5), nickname="\x1b]0;").signed(identity(2))),
            "malformed-message",
        ),
        (item(record(2, 5).signed(identity(3))), "bad-signature"),
        (item(replace(record(2, 5), uid=PeerUID(7), version=2**40)), "bad-signature"),
    ],
)
def test_refused_beside_a_good_one(bad: Item, reason: str) -> None:
    """protocol.md 7.2: each with its reason, and the good record of the same message merges."""
    view = topology(1)
    good = item(record(4, 1))
    assert merged(view, bad, good) == ([good.key], [reason])
    assert set(view.records) == {name(1), name(4)}


def test_a_version_used_twice_changes_nothing() -> None:
    """protocol.md 7.2: the first seen stays; the other is refused as version-reused."""
    view = topology(1)
    first, second = record(2, 5, nickname="one"), record(2, 5, nickname="two")
    merged(view, item(first))
    assert merged(view, item(second)) == ([], ["version-reused"])
    assert view.records[name(2)].nickname == "one"
    forged = replace(item(second), payload=second.encode()[:-1] + b"?")
    assert merged(view, forged) == ([], ["bad-signature"])
    later = record(2, 6, nickname="three")
    assert merged(view, item(later)) == ([later.name.octets], [])


def test_each_record_and_each_forgery_is_verified_once() -> None:
    """protocol.md 7.2: repetition costs no signature check."""
    view = topology(1)
    good, bad = item(record(2, 5)), item(record(3, 5).signed(identity(4)))
    with patch("mesh.topology.record.verify", return_value=True) as check:
        for _ in range(50):
            merged(view, good)
        assert check.call_count == 1
    with patch("mesh.topology.record.verify", return_value=False) as check:
        for _ in range(50):
            assert merged(view, bad) == ([], ["bad-signature"])
        assert check.call_count == 1
        for n in range(2 * MAX_FORGED):
            merged(view, item(record(3, 6 + n)))
    assert len(view._forged) == MAX_FORGED


# ---- bounds


def test_invented_peers_are_bounded_and_do_not_keep_a_neighbour_out() -> None:
    """protocol.md 7.3: too-many-peers, but a neighbour's own record is always held."""
    view = topology(1)
    with patch.object(module, "MAX_PEERS", 4):
        for number in (2, 3, 4):
            merged(view, item(record(number)))
        assert merged(view, item(record(5))) == ([], ["too-many-peers"])
        newer = record(2, 2)
        assert merged(view, item(newer)) == ([newer.name.octets], [])
        outcome = view.merge([item(record(5))], name(5), NOW)
        assert outcome.news == (name(5).octets,)


def test_edges_are_bounded_over_all_records() -> None:
    """protocol.md 7.3: too-many-edges; a record that lists fewer is welcome again."""
    view = topology(1)
    with patch.object(module, "MAX_TOTAL_EDGES", 5):
        assert merged(view, item(record(2, 1, [edge(n) for n in (3, 4, 5)])))[1] == []
        assert merged(view, item(record(3, 1, [edge(n) for n in (2, 4, 5)])))[1] == [
            "too-many-edges"
        ]
        assert merged(view, item(record(3, 2, [edge(2), edge(4)])))[1] == []
        assert merged(view, item(record(2, 2, [edge(3)])))[1] == []
        assert merged(view, item(record(3, 3, [edge(n) for n in (2, 4, 5)])))[1] == []


# ---- our own record


def test_update_publishes_only_what_changed() -> None:
    view = topology(1)
    edges = [edge(2), edge(3)]
    assert view.update(edges=edges, now=NOW)
    assert view.own.version == 1
    assert view.own.is_genuine()
    assert not view.update(edges=reversed(edges), now=NOW)
    assert view.update(edges=edges[:1], now=NOW)
    assert view.own.version == 2
    assert [e.peer for e in view.own.edges] == [name(2)]


def test_our_own_record_is_one_that_others_read() -> None:
    """protocol.md 7.1: sorted, bounded, and no endpoint that is no address."""
    view = topology(1)
    odd = replace(edge(2), endpoint=Endpoint("fe80::1%eth0", 6783))
    many = [replace(edge(3), peer=name(n)) for n in range(2, MAX_EDGES + 50)]
    view.update(edges=[odd, *many[1:]], now=NOW)
    assert view.own.problem == ""
    assert len(view.own.edges) == MAX_EDGES
    other = topology(2)
    assert merged(other, *view.items([name(1).octets])) == ([name(1).octets], [])


def test_a_nickname_no_peer_would_read_is_refused_at_once() -> None:
    with pytest.raises(OperatorError, match="control"):
        Topology(identity(1), PeerUID(1), "evil\x1b[0m", Random(1))


# ---- overtaking


def test_a_restarted_peer_overtakes_its_former_self() -> None:
    """protocol.md 7.4: a version above the older one, also with nothing else in the message."""
    former, reborn = topology(1, uid=77), topology(1, seed=5, uid=5)
    for count in range(40):
        former.update(edges=[edge(2, count)], now=NOW)
    reborn.update(edges=[edge(3)], now=NOW)
    (old,) = former.items([name(1).octets])
    assert merged(reborn, old) == ([name(1).octets], [])
    assert (reborn.own.version, reborn.own.uid) == (41, 5)
    assert [e.peer for e in reborn.own.edges] == [name(3)]
    neighbour = topology(2)
    (new,) = reborn.items([name(1).octets])
    assert merged(neighbour, old, new)[1] == []
    assert neighbour.records[name(1)].uid == 5
    assert merged(reborn, old) == ([], [])
    assert not reborn.clone_suspected


def test_a_namesake_with_our_own_stamp_is_overtaken_too() -> None:
    """protocol.md 7.4: as new as ours with other octets, as a copied machine makes it."""
    view, twin = topology(1, seed=1), topology(1, seed=2)
    view.update(edges=[edge(2)], now=NOW)
    twin.update(edges=[edge(3)], now=NOW)
    assert merged(view, *twin.items([name(1).octets])) == ([name(1).octets], [])
    assert view.own.version == 2


def test_nobody_else_can_make_us_overtake() -> None:
    """protocol.md 7.4: only a genuine record counts."""
    view = topology(1)
    view.update(edges=(), now=NOW)
    forged = item(record(1, 900).signed(identity(2)))
    assert merged(view, forged) == ([], ["bad-signature"])
    assert view.own.version == 1


def test_records_of_a_former_self_are_no_clone() -> None:
    """protocol.md 7.4: whatever comes in with the first exchanges is one strike."""
    view = topology(1, uid=5)
    for n in range(20):
        merged(view, item(record(1, 10 * n, uid=9)), now=100 + n / 25)
    assert view.own.version > 190
    assert not view.clone_suspected


def test_clones_are_suspected_and_stop_racing() -> None:
    """protocol.md 7.4: three different seconds of a minute; then one overtake in 10 s."""
    one, other = topology(1, uid=1), topology(1, uid=2)
    time, overtakes = 100.0, 0
    while time < 400:
        for here, there in ((one, other), (other, one)):
            before = here.own.version
            merged(here, *there.items([name(1).octets]), now=time)
            if time > 110:
                overtakes += here.own.version != before
        time += 0.05
        one.collect((), Instant(time))
        other.collect((), Instant(time))
    assert one.clone_suspected
    assert other.clone_suspected
    assert 20 <= overtakes <= 62


def test_the_survivor_of_two_clones_wins_and_calms_down() -> None:
    """protocol.md 7.4: the suspicion ends after a minute without a namesake."""
    view = topology(1, uid=1)
    for n in range(5):
        merged(view, item(record(1, 100 * n, uid=2)), now=100 + 2 * n)
    assert view.clone_suspected
    last = item(record(1, 9000, uid=2))
    merged(view, last, now=109)
    assert view.own.version < 9000
    merged(view, last, now=120)
    assert view.own.version == 9001
    view.collect((), Instant(179.0))
    assert view.clone_suspected
    view.collect((), Instant(181.0))
    assert not view.clone_suspected


# ---- collection


def reachable(*numbers: int) -> set[object]:
    return {name(n) for n in numbers}


def test_the_unreachable_fall_quiet_and_are_forgotten() -> None:
    """protocol.md 7.3: quiet after 30 s, forgotten after 60 s."""
    view = topology(1)
    merged(view, item(record(2)), item(record(3)))
    for time in range(100, 160, 5):
        assert view.collect([name(2)], Instant(time)) == []
        assert (name(3).octets in view.digest()) is (time < 130)
        assert bool(view.items([name(3).octets])) is (time < 130)
        assert name(3) in view.records
    assert view.collect([name(2)], Instant(160.0)) == [name(3)]
    assert set(view.records) == {name(1), name(2)}
    assert set(view.digest()) == {name(1).octets, name(2).octets}


def test_who_comes_back_is_gossiped_again() -> None:
    """protocol.md 7.3: reachable again before it was forgotten, with what was learnt meanwhile."""
    view = topology(1)
    merged(view, item(record(2)))
    view.collect([], Instant(100.0))
    view.collect([], Instant(131.0))
    newer = record(2, 2)
    assert merged(view, item(newer)) == ([newer.name.octets], [])
    assert name(2).octets not in view.digest()
    view.collect([name(2)], Instant(135.0))
    assert view.digest()[name(2).octets] == newer.stamp
    view.collect([], Instant(136.0))
    assert view.collect([], Instant(190.0)) == []
    assert view.collect([], Instant(196.0)) == [name(2)]


def test_nobody_is_taught_again_what_it_forgot() -> None:
    """protocol.md 7.3: two peers who look at different moments do not keep the dead alive."""
    one, other = topology(1), topology(2)
    for view in (one, other):
        merged(view, item(record(9)))
    time = 100.0
    while time < 400:
        one.collect([name(2)], Instant(time))
        if time >= 104:
            other.collect([name(1)], Instant(time + 0.9))
        for here, there in ((one, other), (other, one)):
            lacking = [k for k, s in there.digest().items() if here.digest().get(k, -1) < s]
            here.merge(there.items(lacking), there.us, Instant(time))
        time += 5
    assert set(one.records) == set(other.records) == {name(1), name(2)}


def tell(teller: Topology, hearer: Topology, now: float) -> None:
    """What the one gossips and the other lacks crosses, as after a comparison."""
    held = hearer.digest()
    lacking = [k for k, stamp in teller.digest().items() if held.get(k, -1) < stamp]
    hearer.merge(teller.items(lacking), teller.us, Instant(now))


def test_three_who_heard_at_different_times_do_not_teach_each_other_for_ever() -> None:
    """protocol.md 7.3: what was forgotten MUST NOT be learnt again from who still tells it.

    They were parted when the peer was lost: one forgets it just before the next falls quiet.
    """
    views = [topology(n) for n in (1, 2, 3)]
    others = [[v.us for v in views if v is not view] for view in views]
    for lost, view in zip((100, 120, 140), views, strict=True):
        merged(view, item(record(9)))
        view.collect(others[views.index(view)], Instant(float(lost)))
        for time in range(lost, 140, 5):
            view.collect(others[views.index(view)], Instant(float(time)))
    for time in range(140, 700, 5):
        for view, beside in zip(views, others, strict=True):
            view.collect(beside, Instant(float(time)))
            for hearer in views:
                tell(view, hearer, time)
    assert [name(9) in view.records for view in views] == [False] * 3


def forgotten(*lost: Record) -> Topology:
    """A peer that forgot these."""
    view = topology(1)
    merged(view, *map(item, lost))
    for time in (100, 160):
        view.collect([], Instant(float(time)))
    assert set(view.records) == {name(1)}
    return view


def test_who_was_forgotten_comes_back_with_whoever_leads_to_it() -> None:
    """protocol.md 7.3: 3 kept its record while it was away with 2, and 2 has a newer one."""
    far = record(3, edges=[edge(2)])
    view = forgotten(record(2, edges=[edge(3)]), far)
    assert merged(view, item(far)) == ([], [])
    bridge = record(2, 2, edges=[edge(1), edge(3)])
    view.update(edges=[edge(2)], now=Instant(170.0))
    assert merged(view, item(far), item(bridge)) == ([bridge.name.octets, far.name.octets], [])


def test_who_was_forgotten_comes_back_by_itself_or_as_another_start() -> None:
    gone = record(2, 5, uid=7)
    source, restarted = gone.name, record(2, 1, uid=8)
    assert merged(forgotten(gone), item(gone)) == ([], [])
    assert forgotten(gone).merge([item(gone)], source, NOW).news == (source.octets,)
    assert merged(forgotten(gone), item(restarted)) == ([source.octets], [])
    assert merged(forgotten(gone), item(record(2, 4, uid=7))) == ([], [])
    assert merged(forgotten(gone), item(record(2, 6, uid=7))) == ([source.octets], [])


def test_a_forgery_of_what_was_forgotten_is_refused_as_any() -> None:
    gone = record(2)
    forged = replace(gone, nickname="mine")
    told = Item(gone.name.octets, gone.stamp, forged.encode())
    assert merged(forgotten(gone), told) == ([], ["bad-signature"])


def test_what_was_forgotten_is_remembered_up_to_a_bound() -> None:
    memory = Forgotten()
    for n in range(MAX_FORGOTTEN + 1):
        memory.add(n.to_bytes(8, "big"), 1)
    assert not memory.has(bytes(8), 1)
    assert memory.has(MAX_FORGOTTEN.to_bytes(8, "big"), 1)


def test_we_never_forget_ourselves() -> None:
    view = topology(1)
    for time in range(0, 300, 5):
        assert view.collect([], Instant(time)) == []
    assert set(view.digest()) == {name(1).octets}


def test_forgetting_makes_room() -> None:
    """protocol.md 7.3: what was forgotten counts no more."""
    view = topology(1)
    with patch.object(module, "MAX_PEERS", 2), patch.object(module, "MAX_TOTAL_EDGES", 1):
        merged(view, item(record(2, 1, [edge(3)])))
        assert merged(view, item(record(3)))[1] == ["too-many-peers"]
        view.collect([], Instant(100.0))
        view.collect([], Instant(160.0))
        assert merged(view, item(record(3, 1, [edge(2)])))[1] == []


# ---- short IDs


def test_of_two_with_one_short_id_the_lower_name_keeps_it() -> None:
    """protocol.md 7.5: the other draws again from those that no record has, and publishes."""
    low, high = sorted((1, 2), key=name)
    keeper, loser = topology(low, short_id=7), topology(high, short_id=7)
    for view in (keeper, loser):
        view.update(edges=(), now=NOW)
    merged(keeper, *loser.items([name(high).octets]))
    merged(loser, *keeper.items([name(low).octets]))
    assert not keeper.is_update_due
    assert loser.is_update_due
    assert not keeper.update(edges=(), now=NOW)
    assert loser.update(edges=(), now=NOW)
    assert keeper.own.short_id == 7
    assert loser.own.short_id not in (7, None)
    assert not loser.is_update_due


def test_when_no_short_id_is_free_there_is_a_reason() -> None:
    """protocol.md 7.5: none until one is free."""
    low, high = sorted((1, 2), key=name)
    view = topology(high, short_id=1)
    with patch("mesh.topology.short_id.LAST", 1):
        merged(view, item(record(low, 1, short_id=1)))
        assert view.update(edges=(), now=NOW)
        assert view.own.short_id is None
        assert view.short_id_problem == "no-short-id-free"
        assert not view.is_update_due
        merged(view, item(record(low, 2)))
        assert view.is_update_due
        assert view.update(edges=(), now=NOW)
        assert view.own.short_id == 1
        assert view.short_id_problem is None
