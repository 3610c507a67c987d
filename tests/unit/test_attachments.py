"""Lists of pods, each signed by its peer (docs/protocol.md 13)."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.clock import Instant
from mesh.gossip.channel import Item
from mesh.link.datapath import Answer, Tables
from mesh.names import PeerUID, ShortID
from mesh.router.steering import name_pods
from mesh.topology.attachments import MAX_ADDRESSES, MAX_PODS, Attachments, Pod
from tests.sim.views import identity, name

T0 = Instant(0.0)
ONE = Pod(bytes.fromhex("020000000001"), ("10.32.0.1", "fd00::1"))
TWO = Pod(bytes.fromhex("020000000002"), ("10.32.0.2",))


def lists(number: int, uid: int = 1) -> Attachments:
    return Attachments(identity(number), PeerUID(uid))


def own_item(of: Attachments) -> Item:
    return of.items([of.us.octets])[0]


def test_a_list_reaches_another_peer_whole() -> None:
    """protocol.md 13."""
    a, b = lists(1), lists(2)
    assert a.set_own((TWO, ONE))
    assert not a.set_own((ONE, TWO)), "no news"
    assert b.merge([own_item(a)], a.us, T0).news == (a.us.octets,)
    assert b.pods[a.us] == (ONE, TWO)
    assert b.merge([own_item(a)], a.us, T0).news == ()
    a.set_own((TWO,))
    b.merge([own_item(a)], a.us, T0)
    assert b.pods[a.us] == (TWO,)


def test_lies_are_refused_and_change_nothing() -> None:
    """protocol.md 13: of another's key, altered, under another stamp, in another form."""
    a, b, liar = lists(1), lists(2), lists(3)
    a.set_own((ONE,))
    b.merge([own_item(a)], a.us, T0)
    a.set_own((ONE, TWO))
    good = own_item(a)
    liar.set_own((ONE,))
    wrong = {
        Item(
            good.key, good.stamp, good.payload[:-1] + bytes((good.payload[-1] ^ 1,))
        ): "bad-signature",
        Item(good.key, good.stamp + 1, good.payload): "mislabelled",
        Item(a.us.octets, good.stamp + 9, own_item(liar).payload): "mislabelled",
        Item(good.key, good.stamp, good.payload[:60]): "malformed-message",
        Item(b"short", good.stamp, good.payload): "mislabelled",
    }
    for item, reason in wrong.items():
        merged = b.merge([item], liar.us, T0)
        assert [r.reason for r in merged.rejected] == [reason]
        assert b.pods[a.us] == (ONE,)
    assert b.merge([good], liar.us, T0).news == (a.us.octets,)


def signed(pods: tuple[Pod, ...]) -> Item:
    """Whatever it says: its owner signed it."""
    made = lists(1)
    made._publish(pods, None)
    return own_item(made)


@pytest.mark.parametrize(
    "pods",
    [
        (TWO, ONE),
        (ONE, ONE),
        (Pod(bytes(6)),),
        (Pod(b"\xff" * 6),),
        tuple(Pod((2 << 40 | n).to_bytes(6, "big")) for n in range(MAX_PODS + 1)),
    ],
    ids=["disorder", "twice", "zero", "group", "many"],
)
def test_a_list_in_another_form_is_malformed(pods: tuple[Pod, ...]) -> None:
    """protocol.md 13: one encoding, bounds."""
    b = lists(2)
    merged = b.merge([signed(pods)], name(1), T0)
    assert [r.reason for r in merged.rejected] == ["malformed-message"]
    assert name(1) not in b.pods


def test_bounds_of_what_we_say_ourselves() -> None:
    """protocol.md 13: what does not fit is left out, and the rest is read by everybody."""
    a, b = lists(1), lists(2)
    many = tuple(f"10.32.0.{n}" for n in range(MAX_ADDRESSES + 3))
    pods = [Pod((2 << 40 | n).to_bytes(6, "big"), many) for n in range(MAX_PODS + 5)]
    a.set_own(pods)
    assert b.merge([own_item(a)], a.us, T0).rejected == ()
    assert len(b.pods[a.us]) == MAX_PODS
    assert len(own_item(a).payload) < 65_536


def test_a_restarted_peer_overtakes_its_former_self() -> None:
    """protocol.md 13, 7.4."""
    old, b = lists(1, uid=7), lists(2)
    for n in range(5):
        old.set_own((Pod(bytes((2, 0, 0, 0, 0, n))),))
    b.merge([own_item(old)], old.us, T0)
    new = lists(1, uid=3)
    new.set_own((ONE,))
    assert b.merge([own_item(new)], new.us, T0).news == ()
    assert new.merge([own_item(old)], b.us, T0).news == (new.us.octets,)
    assert b.merge([own_item(new)], new.us, T0).news == (new.us.octets,)
    assert b.pods[new.us] == (ONE,)


def test_what_was_forgotten_is_not_taught_again() -> None:
    """protocol.md 13, 7.3: but a list of who is known again is."""
    a, b = lists(1), lists(2)
    a.set_own((ONE,))
    item = own_item(a)
    b.collect({a.us})
    b.merge([item], a.us, T0)
    b.collect(())
    assert a.us not in b.pods
    assert b.merge([item], name(3), T0).news == ()
    b.collect({a.us})
    assert b.merge([item], name(3), T0).news == (a.us.octets,)


@given(st.binary(max_size=300))
def test_any_octets_are_refused(data: bytes) -> None:
    b = lists(2)
    merged = b.merge([Item(name(1).octets, 1 << 64 | 1, data)], name(1), T0)
    assert merged.news == ()
    assert name(1) not in b.pods


def test_what_two_claim_is_left_out() -> None:
    """protocol.md 13: a MAC or an address of two peers is nobody's for certain."""
    tables, here, there = Tables(), ShortID(1), ShortID(2)
    same_mac = Pod(bytes.fromhex("020000000009"), ("10.32.0.9",))
    same_address = Pod(bytes.fromhex("020000000003"), ("10.32.0.1",))
    pods = {name(1): (ONE, same_mac), name(2): (TWO, same_mac, same_address), name(3): (ONE,)}
    name_pods(tables, pods, {name(1): here, name(2): there})
    assert tables.attached == {ONE.mac: here, TWO.mac: there, same_address.mac: there}
    assert tables.answers == {
        "fd00::1": Answer(ONE.mac, here),
        "10.32.0.2": Answer(TWO.mac, there),
    }
