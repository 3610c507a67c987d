"""What every Datapath must do to frames: one set of tests for the kernel's and the twin's.

A module that imports these names gives the fixture ``chain``: hosts 1 to 4 in a row, each with a
pod, told by ``wire``. Hosts see only their neighbours on the underlay::

    pod1   pod2   pod3   pod4
      |      |      |      |
      1 ---- 2 ---- 3 ---- 4

A test that something does not arrive sends something that does afterwards: frames keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pytest

from bench.kernelnodes import chain_tables, mac
from mesh.link.checksum import checksum
from mesh.link.datapath import (
    MAX_CHILDREN,
    SLEEVE,
    Absence,
    Answer,
    Config,
    Datapath,
    DatapathError,
    Reason,
    Tables,
    Takeover,
    Tree,
    Upcall,
    correct,
)
from mesh.link.drops import Drop
from mesh.names import ShortID

COUNT = 4
GROUP = b"\xff" * 6
TYPE = b"\x88\xb6"
STRANGER = bytes.fromhex("02aabbccddee")
OF_HOST = "10.32.0.{}"


class Host(Protocol):
    number: int

    @property
    def datapath(self) -> Datapath: ...

    def send(self, frame: bytes) -> None:
        """From its pod."""

    def heard(self, count: int) -> list[bytes]:
        """What its pod was given since it was last asked, once there are as many; in order."""

    def sleeve_send(self, frame: bytes) -> None: ...
    def sleeve_heard(self, count: int) -> list[bytes]: ...
    def upcalls(self, count: int) -> list[Upcall]: ...

    def forge(
        self, to: Host, source: int, target: int, frame: bytes, hops: int = 64, own: bool = True
    ) -> None:
        """A VXLAN packet to a neighbour with these numbers; from an address of this host that the
        neighbour knows, or (``own=False``) does not."""

    def restart(self) -> None:
        """Its daemon is killed, and another opens what it left."""


class Chain(Protocol):
    @property
    def hosts(self) -> Sequence[Host]: ...

    def address(self, seen_by: int, number: int) -> str:
        """A neighbour's outer address."""


def frame(source: int, target: bytes, text: str = "hello", sender: bytes | None = None) -> bytes:
    body = text.encode() + b" from %d" % source
    return target + (sender or mac(source)) + TYPE + body.ljust(60, b".")


def wanted(chain: Chain, number: int) -> Tables:
    return chain_tables(number, COUNT, chain.address)


def wire(chain: Chain) -> None:
    for host in chain.hosts:
        host.datapath.configure(Config(ShortID(host.number), 1500))
        correct(host.datapath, wanted(chain, host.number))
        host.datapath.start()


def greet(chain: Chain) -> None:
    """One broadcast of each pod: everybody learns everybody."""
    for host in chain.hosts:
        sent = frame(host.number, GROUP, "here I am")
        host.send(sent)
        for other in chain.hosts:
            if other is not host:
                assert other.heard(1) == [sent]


def drops(host: Host) -> dict[Drop, int]:
    return dict(host.datapath.counters().drops)


def arp(sender: int, asked: str, operation: int = 1, sender_ip: str | None = None) -> bytes:
    ip = bytes(map(int, (sender_ip or OF_HOST.format(sender)).split(".")))
    head = bytes.fromhex("0806 0001 0800 0604") + operation.to_bytes(2, "big")
    body = head + mac(sender) + ip + bytes(6) + bytes(map(int, asked.split(".")))
    return (GROUP + mac(sender) + body).ljust(60, b"\0")


# --- frames between pods


def test_every_pair_and_only_that_pair(chain: Chain) -> None:
    greet(chain)
    for a in chain.hosts:
        for b in chain.hosts:
            if a is not b:
                sent = frame(a.number, mac(b.number), "unicast")
                a.send(sent)
                assert b.heard(1) == [sent]
    greet(chain)  # had anybody else been given one of those, it would come first
    first, last = chain.hosts[0], chain.hosts[-1]
    peers = first.datapath.counters().peers
    octets = len(frame(1, GROUP))
    # Two broadcasts to its only child; one unicast to each.
    assert (peers[ShortID(2)].tx_frames, peers[ShortID(2)].tx_octets) == (3, 3 * octets)
    assert (peers[ShortID(4)].tx_frames, peers[ShortID(4)].rx_frames) == (1, 3)
    assert last.datapath.counters().peers[ShortID(1)].rx_octets == 3 * octets
    relay = chain.hosts[1].datapath.counters().peers
    # Towards 4: unicast of 1. To 3 as a child and a destination: 2 broadcasts and 1 unicast of 1.
    assert (relay[ShortID(4)].relayed_frames, relay[ShortID(3)].relayed_frames) == (1, 3)
    assert all(drops(h) == {} for h in chain.hosts)


def test_a_broadcast_is_heard_exactly_once(chain: Chain) -> None:
    for origin in chain.hosts:
        sent = [frame(origin.number, GROUP, f"number {n}") for n in range(20)]
        for one in sent:
            origin.send(one)
        for other in chain.hosts:
            if other is not origin:
                assert other.heard(20) == sent
    greet(chain)


def test_hops_run_out(chain: Chain) -> None:
    greet(chain)
    a, b, c, d = chain.hosts
    a.forge(b, 1, 4, frame(1, mac(4), "one hop"), hops=1)
    a.forge(b, 1, 4, frame(1, mac(4), "two hops"), hops=2)
    a.forge(b, 1, 4, frame(1, mac(4), "three hops"), hops=3)
    assert d.heard(1) == [frame(1, mac(4), "three hops")]
    assert drops(b) == {Drop.HOP_LIMIT: 1}
    assert drops(c) == {Drop.HOP_LIMIT: 1}
    # A broadcast without hops left is for the pods here and nobody else.
    a.forge(b, 1, 2, frame(1, GROUP, "near"), hops=1)
    a.forge(b, 1, 2, frame(1, GROUP, "far"))
    assert b.heard(2) == [frame(1, GROUP, "near"), frame(1, GROUP, "far")]
    assert c.heard(1) == [frame(1, GROUP, "far")]
    assert drops(b) == {Drop.HOP_LIMIT: 2}


def test_who_may_speak(chain: Chain) -> None:
    greet(chain)
    a, b, c, _ = chain.hosts
    bad = frame(1, mac(2), "forged")
    a.forge(b, 1, 2, bad, own=False)  # an address that nobody has
    a.forge(b, 3, 2, bad)  # a source that does not come that way
    a.forge(b, 77, 2, bad)  # nobody's number
    a.forge(b, 3, 4, bad)  # to be relayed, too
    a.forge(b, 2, 2, bad)  # our own number
    a.send(frame(1, mac(2), "good"))
    assert b.heard(1) == [frame(1, mac(2), "good")]
    assert drops(b) == {Drop.BAD_SOURCE: 5}
    assert b.datapath.counters().peers.get(ShortID(77)) is None
    b.datapath.disallow(chain.address(2, 1), ShortID(1))
    a.send(frame(1, mac(2), "no longer"))
    c.send(frame(3, mac(2), "another"))
    assert b.heard(1) == [frame(3, mac(2), "another")]
    # Our own number from where it is allowed: somebody loops.
    b.datapath.allow(chain.address(2, 1), ShortID(2))
    a.forge(b, 2, 2, bad)
    c.send(frame(3, mac(2), "next"))
    assert b.heard(1) == [frame(3, mac(2), "next")]
    assert drops(b) == {Drop.BAD_SOURCE: 6, Drop.LOOPED: 1}


def test_what_would_go_back_where_it_came_from_is_dropped(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    b.datapath.set_routes({ShortID(4): ShortID(1)})
    a.send(frame(1, mac(4), "ping pong"))
    a.send(frame(1, mac(2), "good"))
    assert b.heard(1) == [frame(1, mac(2), "good")]
    assert drops(b) == {Drop.LOOPED: 1}


def test_broadcasts_come_from_their_parent_only(chain: Chain) -> None:
    greet(chain)
    a, b, c, _ = chain.hosts
    b.datapath.allow(chain.address(2, 3), ShortID(1))
    c.forge(b, 1, 2, frame(1, GROUP, "around"))
    c.forge(b, 1, 2, frame(1, mac(2), "unicast may"))
    a.send(frame(1, GROUP, "straight"))
    assert len(b.heard(2)) == 2  # the two cables have no common order
    assert c.heard(1) == [frame(1, GROUP, "straight")]
    assert drops(b) == {Drop.OFF_TREE: 1}
    b.datapath.set_tree(ShortID(1), Tree(None))
    c.forge(b, 1, 2, frame(1, GROUP, "from anywhere"))
    assert b.heard(1) == [frame(1, GROUP, "from anywhere")]


def test_no_destination_no_neighbour_no_tree(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    a.datapath.drop_route(ShortID(3))
    a.send(frame(1, mac(3)))
    a.send(frame(1, mac(2), "good"))
    assert b.heard(1) == [frame(1, mac(2), "good")]
    assert drops(a) == {Drop.NO_ROUTE: 1}
    a.datapath.drop_neighbour(ShortID(2))
    a.send(frame(1, mac(2)))
    a.send(frame(1, GROUP))
    a.datapath.drop_tree(ShortID(1))
    a.send(frame(1, GROUP))
    a.datapath.set_neighbour(ShortID(2), chain.address(1, 2), chain.address(2, 1))
    a.send(frame(1, mac(2), "good again"))
    assert b.heard(1) == [frame(1, mac(2), "good again")]
    assert drops(a) == {Drop.NO_ROUTE: 4}


def test_a_tree_may_be_wide(chain: Chain) -> None:
    a, b, _, _ = chain.hosts
    children = tuple(ShortID(n) for n in range(100, 100 + MAX_CHILDREN))
    for child in children:
        a.datapath.set_neighbour(child, chain.address(1, 2), chain.address(2, 1))
    for size in (1, 31, 32, 33, 64, MAX_CHILDREN):
        a.datapath.set_tree(ShortID(1), Tree(None, (*children[: size - 1], ShortID(2))))
        a.send(frame(1, GROUP, f"{size} children"))
        assert b.heard(1) == [frame(1, GROUP, f"{size} children")]
    peers = a.datapath.counters().peers
    assert peers[ShortID(100)].tx_frames == 5
    assert peers[ShortID(100 + MAX_CHILDREN - 2)].tx_frames == 1
    assert sum(p.tx_frames for p in peers.values()) == 1 + 31 + 32 + 33 + 64 + MAX_CHILDREN
    with pytest.raises(DatapathError) as refusal:
        a.datapath.set_tree(ShortID(1), Tree(None, (*children, ShortID(2))))
    assert refusal.value.absence is Absence.TABLE_FULL
    a.send(frame(1, GROUP, "as before"))
    assert b.heard(1) == [frame(1, GROUP, "as before")]


# --- addresses


def test_addresses_are_learned_and_move(chain: Chain) -> None:
    greet(chain)
    a, b, c, d = chain.hosts
    assert a.datapath.learned()[mac(4)] == ShortID(4)
    assert a.datapath.learned()[mac(1)] == ShortID(1)
    b.send(frame(2, GROUP, "it moved here", sender=mac(4)))
    for host in (a, c, d):
        assert len(host.heard(1)) == 1
    a.send(frame(1, mac(4), "moved"))
    assert b.heard(1) == [frame(1, mac(4), "moved")]
    a.datapath.forget(ShortID(2))
    learned = a.datapath.learned()
    assert mac(4) not in learned
    assert mac(2) not in learned
    assert learned[mac(3)] == ShortID(3)


def test_what_is_attached_cannot_be_stolen(chain: Chain) -> None:
    greet(chain)
    a, b, c, _ = chain.hosts
    b.datapath.attach(mac(3), ShortID(3))
    b.datapath.attach(mac(2), ShortID(2))
    a.forge(b, 1, 2, frame(1, mac(2), "as 3", sender=mac(3)))
    a.forge(b, 1, 2, frame(1, mac(2), "as 2", sender=mac(2)))
    b.send(frame(2, GROUP, "as 3 again", sender=mac(3)))
    a.send(frame(1, mac(2), "as itself"))
    assert b.heard(1) == [frame(1, mac(2), "as itself")]
    c.send(frame(3, mac(2), "rightly"))
    assert b.heard(1) == [frame(3, mac(2), "rightly")]
    assert drops(b) == {Drop.MAC_OF_ANOTHER: 3}
    assert b.datapath.learned()[mac(3)] == ShortID(3)
    b.datapath.detach(mac(3))
    a.forge(b, 1, 2, frame(1, mac(2), "as 3", sender=mac(3)))
    assert b.heard(1) == [frame(1, mac(2), "as 3", sender=mac(3))]


def test_no_frame_comes_from_a_group_or_from_nobody(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    a.forge(b, 1, 2, frame(1, mac(2), sender=bytes.fromhex("010000000001")))
    a.forge(b, 1, 2, frame(1, mac(2), sender=bytes(6)))
    a.send(frame(1, mac(2), "good"))
    assert b.heard(1) == [frame(1, mac(2), "good")]
    assert drops(b) == {Drop.BAD_SOURCE: 2}


def test_unknown_addresses(chain: Chain) -> None:
    greet(chain)
    a, b, c, _ = chain.hosts
    a.send(frame(1, STRANGER, "who knows"))
    for host in chain.hosts[1:]:
        assert host.heard(1) == [frame(1, STRANGER, "who knows")]
    # Misdirected, by who had learned it wrongly: passed on by the tree, as if nobody knew it.
    a.forge(b, 1, 2, frame(1, STRANGER, "is it yours"))
    for host in chain.hosts[1:]:
        assert host.heard(1) == [frame(1, STRANGER, "is it yours")]
    a.datapath.configure(Config(ShortID(1), 1500, upcall_unknown=True))
    a.send(frame(1, STRANGER, "tell me"))
    [upcall] = a.upcalls(1)
    assert upcall == Upcall(Reason.UNKNOWN, ShortID(1), SLEEVE, frame(1, STRANGER, "tell me"))
    a.send(frame(1, mac(2), "known"))
    assert b.heard(1) == [frame(1, mac(2), "known")]
    a.send(frame(1, GROUP, "all"))
    assert c.heard(1) == [frame(1, GROUP, "all")]


# --- questions


def test_arp_is_answered_here(chain: Chain) -> None:
    greet(chain)
    a, b, c, d = chain.hosts
    a.datapath.set_answer(OF_HOST.format(4), Answer(mac(4), ShortID(4)))
    a.datapath.set_answer(OF_HOST.format(1), Answer(mac(1), ShortID(1)))
    a.send(arp(1, OF_HOST.format(4)))
    [answer] = a.heard(1)
    assert answer[:22] == mac(1) + mac(4) + bytes.fromhex("0806 0001 0800 0604 0002")
    assert answer[22:42] == mac(4) + bytes((10, 32, 0, 4)) + mac(1) + bytes((10, 32, 0, 1))
    a.send(arp(1, OF_HOST.format(1), sender_ip=OF_HOST.format(9)))  # its pod answers by itself
    assert a.datapath.counters().answered == 2
    passed = [
        arp(1, OF_HOST.format(3)),  # nobody told us
        arp(1, OF_HOST.format(4), operation=2),
        arp(1, OF_HOST.format(4), sender_ip=OF_HOST.format(4)),  # gratuitous
        arp(1, OF_HOST.format(4), sender_ip="0.0.0.0"),  # a probe for duplicates
    ]
    for one in passed:
        a.send(one)
    for host in (b, c, d):
        assert host.heard(4) == passed
    a.datapath.drop_answer(OF_HOST.format(4))
    a.send(arp(1, OF_HOST.format(4)))
    assert b.heard(1) == [arp(1, OF_HOST.format(4))]
    assert a.datapath.counters().answered == 2


def solicitation(sender: bytes, asked: bytes) -> bytes:
    """Of pod 1; its checksum is nobody's business on the way."""
    to = bytes.fromhex("ff0200000000000000000001ff") + asked[13:]
    head = bytes.fromhex("86dd 60000000 0020 3aff") + sender + to
    return (
        b"\x33\x33\xff"
        + asked[13:]
        + mac(1)
        + head
        + b"\x87\0\x12\x34"
        + bytes(4)
        + asked
        + (b"\1\1" + mac(1))
    )


def test_solicitations_are_answered_here(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    mine, theirs, nobodys = (bytes.fromhex("fd32") + bytes(13) + bytes((n,)) for n in (1, 4, 9))
    a.datapath.set_answer("fd32::4", Answer(mac(4), ShortID(4)))
    a.datapath.set_answer("fd32::1", Answer(mac(1), ShortID(1)))
    a.send(solicitation(mine, theirs))
    [answer] = a.heard(1)
    assert answer[:22] == mac(1) + mac(4) + bytes.fromhex("86dd 60000000 0020 3aff")
    assert answer[22:54] == theirs + mine
    assert answer[54:56] + answer[58:] == bytes.fromhex("8800 60000000") + theirs + b"\2\1" + mac(4)
    pseudo = theirs + mine + bytes((0, 0, 0, 32, 0, 0, 0, 58))
    assert checksum(pseudo + answer[54:]) == 0
    a.send(solicitation(theirs, mine))  # its pod answers by itself
    assert a.datapath.counters().answered == 2
    # Nobody told us; and a probe for duplicates, which the holder has to hear.
    passed = [solicitation(mine, nobodys), solicitation(bytes(16), theirs)]
    for one in passed:
        a.send(one)
    assert b.heard(2) == passed
    assert a.datapath.counters().answered == 2


# --- the sleeve


def test_peers_by_sleeve(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    a.datapath.set_routes({ShortID(3): SLEEVE})
    a.send(frame(1, mac(3), "by sleeve"))
    a.send(frame(1, mac(2), "by kernel"))
    assert a.sleeve_heard(1) == [frame(1, mac(3), "by sleeve")]
    assert b.heard(1) == [frame(1, mac(2), "by kernel")]
    a.sleeve_send(frame(3, mac(1), "back by sleeve"))
    assert a.heard(1) == [frame(3, mac(1), "back by sleeve")]
    assert a.datapath.learned()[mac(3)] == SLEEVE
    a.send(frame(1, mac(3), "known to the worker"))
    assert a.sleeve_heard(1) == [frame(1, mac(3), "known to the worker")]
    assert a.datapath.counters().to_sleeve == 2
    a.datapath.set_sleeve(None)
    a.send(frame(1, mac(3), "no sleeve"))
    a.send(frame(1, mac(2), "good"))
    assert b.heard(1) == [frame(1, mac(2), "good")]
    assert drops(a) == {Drop.NO_SLEEVE: 1}


def test_what_is_attached_here_does_not_come_by_sleeve(chain: Chain) -> None:
    a = chain.hosts[0]
    a.datapath.attach(mac(1), ShortID(1))
    a.datapath.attach(mac(3), ShortID(3))
    a.sleeve_send(frame(3, mac(1), "as 1", sender=mac(1)))
    a.sleeve_send(frame(3, mac(1), "as 3"))
    assert a.heard(1) == [frame(3, mac(1), "as 3")]
    assert drops(a) == {Drop.MAC_OF_ANOTHER: 1}


def test_broadcasts_that_go_on_by_sleeve(chain: Chain) -> None:
    greet(chain)
    a, b, c, _ = chain.hosts
    a.datapath.set_tree(ShortID(1), Tree(None, (ShortID(2),), to_sleeve=True))
    b.datapath.set_tree(ShortID(1), Tree(ShortID(1), (ShortID(3),), to_sleeve=True))
    sent = frame(1, GROUP, "both ways")
    a.send(sent)
    assert a.sleeve_heard(1) == [sent]
    assert b.upcalls(1) == [Upcall(Reason.BROADCAST, ShortID(1), ShortID(2), sent)]
    assert b.heard(1) == [sent]
    assert c.heard(1) == [sent]
    assert b.datapath.counters().upcalls == 1


def test_transit_to_the_sleeve_comes_up(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    b.datapath.set_routes({ShortID(4): SLEEVE})
    sent = frame(1, mac(4), "onwards")
    a.send(sent)
    assert b.upcalls(1) == [Upcall(Reason.TRANSIT, ShortID(1), ShortID(4), sent)]


def test_frames_of_others_may_have_a_way_of_their_own(chain: Chain) -> None:
    """Ours go by sleeve, and who is not told yet is served the old way."""
    greet(chain)
    a, b, _, d = chain.hosts
    b.datapath.set_routes({ShortID(4): SLEEVE}, onward={ShortID(4): ShortID(3)})
    assert b.datapath.tables().onward == {ShortID(4): ShortID(3)}
    sent = frame(1, mac(4), "onwards")
    a.send(sent)
    assert d.heard(1) == [sent]
    own = frame(2, mac(4), "ours")
    b.send(own)
    assert b.sleeve_heard(1) == [own]
    b.datapath.set_routes({ShortID(4): SLEEVE})
    a.send(sent)
    assert b.upcalls(1) == [Upcall(Reason.TRANSIT, ShortID(1), ShortID(4), sent)]


# --- frames of user space


def test_control_frames(chain: Chain) -> None:
    greet(chain)
    a, b, _, _ = chain.hosts
    a.datapath.drop_route(ShortID(2))
    for payload in (b"", b"x", b"\0" * 46, bytes(range(256)) * 5):
        a.datapath.send_control(ShortID(2), payload)
        [upcall] = b.upcalls(1)
        assert (upcall.reason, upcall.source) == (Reason.CONTROL, ShortID(1))
        # Ethernet pads short frames on some ways; a control frame says its own length if it must.
        assert upcall.frame.rstrip(b"\0") == payload.rstrip(b"\0")
        assert len(upcall.frame) >= len(payload)
    a.datapath.send_control(ShortID(9), b"to nobody")
    assert drops(a) == {Drop.NO_ROUTE: 1}
    b.datapath.disallow(chain.address(2, 1), ShortID(1))
    a.datapath.send_control(ShortID(2), b"not allowed")
    b.datapath.allow(chain.address(2, 1), ShortID(1))
    a.datapath.send_control(ShortID(2), b"allowed")
    [upcall] = b.upcalls(1)
    assert upcall.frame.rstrip(b"\0") == b"allowed"
    assert drops(b) == {Drop.BAD_SOURCE: 1}
    assert b.datapath.counters().peers[ShortID(1)].rx_frames == 1  # the greeting


def test_frames_delivered_and_sent_along_a_tree(chain: Chain) -> None:
    greet(chain)
    a, b, c, _ = chain.hosts
    announced = arp(4, OF_HOST.format(4), sender_ip=OF_HOST.format(4))
    b.datapath.deliver(ShortID(4), announced)
    assert b.heard(1) == [announced]
    passed = frame(1, GROUP, "came by sleeve")
    b.datapath.send_along_tree(ShortID(1), passed)
    c.datapath.set_tree(ShortID(1), Tree(None))
    assert c.heard(1) == [passed]
    a.send(frame(1, mac(2), "last"))
    assert b.heard(1) == [frame(1, mac(2), "last")]
    b.datapath.send_along_tree(ShortID(99), passed)
    assert drops(b) == {Drop.NO_ROUTE: 1}


# --- life


def test_tables_are_read_back(chain: Chain) -> None:
    a = chain.hosts[0].datapath
    told = wanted(chain, 1)
    assert a.tables() == told
    told.neighbours[ShortID(4095)] = "2001:db8::1"
    told.routes[ShortID(4095)] = SLEEVE
    told.trees[ShortID(7)] = Tree(ShortID(3), (ShortID(5), ShortID(4095)), to_sleeve=True)
    told.sources.add(("2001:db8::1", ShortID(4095)))
    told.attached[STRANGER] = ShortID(4095)
    told.answers["fd00::5"] = Answer(STRANGER, ShortID(4095))
    told.answers["10.1.2.3"] = Answer(STRANGER, ShortID(1))
    assert correct(a, told) == 7
    assert a.tables() == told
    assert correct(a, wanted(chain, 1)) == 7
    assert a.tables() == wanted(chain, 1)


def test_nothing_passes_before_it_is_configured(bare: Chain) -> None:
    a = bare.hosts[0]
    a.datapath.start()
    a.send(frame(1, GROUP))
    a.datapath.configure(Config(ShortID(1), 1500, upcall_unknown=True))
    a.send(frame(1, STRANGER))
    assert len(a.upcalls(1)) == 1
    assert drops(a) == {Drop.NOT_CONFIGURED: 1}


def test_a_killed_daemon_is_followed_without_a_flush(chain: Chain) -> None:
    greet(chain)
    a, b, _, d = chain.hosts
    before, learned = b.datapath.counters(), b.datapath.learned()
    b.restart()
    assert b.datapath.takeover is Takeover.TAKEN
    a.send(frame(1, mac(4), "while it starts"))
    assert d.heard(1) == [frame(1, mac(4), "while it starts")]
    assert b.datapath.tables() == wanted(chain, 2)
    assert b.datapath.learned() == learned
    assert b.datapath.counters().peers[ShortID(3)].tx_frames == before.peers[ShortID(3)].tx_frames
    told = wanted(chain, 2)
    del told.routes[ShortID(4)]
    assert correct(b.datapath, told) == 1
    b.datapath.configure(Config(ShortID(2), 1500))
    b.datapath.start()
    a.send(frame(1, mac(4), "no longer"))
    a.send(frame(1, mac(2), "still"))
    assert b.heard(1) == [frame(1, mac(2), "still")]
    assert drops(b) == {Drop.NO_ROUTE: 1}
    a.datapath.send_control(ShortID(2), b"to the new one")
    assert b.upcalls(1)[0].frame.rstrip(b"\0") == b"to the new one"
    assert b.datapath.check() == []


# --- what is too big for its destination


def packet4(size: int, *, may_be_cut: bool, protocol: int = 17) -> bytes:
    """Of host 1's pod to host 3's."""
    head = bytes((0x45, 0)) + size.to_bytes(2, "big") + bytes.fromhex("0007")
    head += bytes((0 if may_be_cut else 0x40, 0, 64, protocol, 0, 0, 10, 32, 0, 1, 10, 32, 0, 3))
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return mac(3) + mac(1) + b"\x08\0" + head.ljust(size, b"x")


def packet6(size: int) -> bytes:
    head = bytes.fromhex("60000000") + (size - 40).to_bytes(2, "big") + bytes((17, 64))
    return mac(3) + mac(1) + b"\x86\xdd" + (head + _OF_ONE + _OF_THREE).ljust(size, b"x")


_OF_ONE, _OF_THREE = (
    bytes.fromhex("fd98") + bytes(13) + b"\1",
    bytes.fromhex("fd98") + bytes(13) + b"\3",
)


def limited(chain: Chain, mtu: int) -> tuple[Host, Host]:
    greet(chain)
    one, three = chain.hosts[0], chain.hosts[2]
    one.datapath.set_routes({ShortID(3): ShortID(2)}, {ShortID(3): mtu})
    assert one.datapath.tables().mtus == {ShortID(3): mtu}
    return one, three


def test_what_a_destination_does_not_take_is_answered_to_its_pod(chain: Chain) -> None:
    """RFC 1191: in the name of the destination, with the MTU, and good in every octet."""
    one, three = limited(chain, 1300)
    fits = packet4(1300, may_be_cut=False)
    one.send(fits)
    assert three.heard(1) == [fits]
    sent = packet4(1301, may_be_cut=False)
    one.send(sent)
    (answer,) = one.heard(1)
    assert answer[:14] == mac(1) + mac(3) + b"\x08\0"
    packet, message = answer[14:34], answer[34:]
    assert (packet[0], packet[9], packet[12:]) == (0x45, 1, sent[30:34] + sent[26:30])
    assert int.from_bytes(packet[2:4], "big") == len(answer) - 14
    assert checksum(packet) == 0
    assert message[:2] + message[4:8] == bytes((3, 4, 0, 0)) + (1300).to_bytes(2, "big")
    assert checksum(message) == 0
    quote = message[8:]
    assert len(quote) >= 28
    assert sent[14:].startswith(quote)
    assert drops(one) == {Drop.TOO_BIG: 1}
    one.send(fits)
    assert three.heard(1) == [fits], "what was too big did not go there"


def test_what_may_be_cut_goes_on_and_is_answered_as_well(chain: Chain) -> None:
    """Nothing is lost on the way; and the pod's stack cuts the next ones itself."""
    one, three = limited(chain, 1300)
    sent = packet4(1301, may_be_cut=True)
    one.send(sent)
    assert three.heard(1) == [sent]
    (answer,) = one.heard(1)
    assert answer[34:36] == b"\3\4"
    assert drops(one) == {}


def test_ipv6_too_big_is_answered_and_never_below_its_least(chain: Chain) -> None:
    """RFC 4443 3.2, RFC 8200 5: 1,280 octets pass whatever was said."""
    for mtu, named in ((1350, 1350), (900, 1280)):
        one, three = limited(chain, mtu)
        fits, sent = packet6(named), packet6(named + 1)
        one.send(fits)
        assert three.heard(1) == [fits]
        one.send(sent)
        (answer,) = one.heard(1)
        assert answer[:14] == mac(1) + mac(3) + b"\x86\xdd"
        assert answer[22:54] == _OF_THREE + _OF_ONE
        message = answer[54:]
        assert message[:2] + message[4:8] == b"\2\0" + named.to_bytes(4, "big")
        pseudo = answer[22:54] + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58))
        assert checksum(pseudo + message) == 0
        assert sent[14:].startswith(message[8:])


def test_nothing_is_said_to_errors_and_later_fragments(chain: Chain) -> None:
    """RFC 1122 3.2.2."""
    one, three = limited(chain, 1300)
    unreachable = bytearray(packet4(1400, may_be_cut=False, protocol=1))
    unreachable[34:36] = b"\3\1"
    one.send(bytes(unreachable))
    assert drops(one) == {Drop.TOO_BIG: 1}
    echo = bytearray(packet4(1400, may_be_cut=False, protocol=1))
    echo[34:36] = b"\x08\0"
    one.send(bytes(echo))
    (answer,) = one.heard(1)
    assert answer[34:36] == b"\3\4"
    assert answer[42:].startswith(bytes(echo[14:42])), "only the echo was answered"
    fits = packet4(1300, may_be_cut=False)
    one.send(fits)
    assert three.heard(1) == [fits]


def test_an_mtu_goes_with_its_route(chain: Chain) -> None:
    one, three = limited(chain, 1300)
    one.datapath.set_routes({ShortID(3): ShortID(2)})
    assert one.datapath.tables().mtus == {}
    sent = packet4(1400, may_be_cut=False)
    one.send(sent)
    assert three.heard(1) == [sent]


# --- groups


LISTENED = bytes.fromhex("01005e010203")
JOIN = bytes.fromhex("16000000ef010203")


def igmp(source: int, message: bytes = JOIN) -> bytes:
    """A report of a pod, of version 2, to the group itself."""
    message = (
        message[:2]
        + checksum(message[:2] + bytes(2) + message[4:]).to_bytes(2, "big")
        + message[4:]
    )
    head = bytes((0x46, 0xC0)) + (24 + len(message)).to_bytes(2, "big") + bytes(4) + b"\1\2\0\0"
    head += bytes((10, 32, 0, source)) + message[4:8] + b"\x94\4\0\0"
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return LISTENED + mac(source) + b"\x08\0" + head + message


def test_a_group_goes_where_it_is_listened_to(chain: Chain) -> None:
    """2 passes on what its own pods do not get, 4 is not sent anything; others hear everything."""
    greet(chain)
    one, two, three, four = chain.hosts
    one.datapath.set_group_tree(ShortID(1), LISTENED, Tree(None, (ShortID(2),)))
    onward = Tree(ShortID(1), (ShortID(3),), here=False)
    two.datapath.set_group_tree(ShortID(1), LISTENED, onward)
    three.datapath.set_group_tree(ShortID(1), LISTENED, Tree(ShortID(2)))
    assert two.datapath.tables().groups == {(ShortID(1), LISTENED): onward}
    sent = frame(1, LISTENED, "for those who listen")
    one.send(sent)
    assert three.heard(1) == [sent]
    after = frame(1, LISTENED[:5] + b"\4", "for another group")
    one.send(after)
    for host in (two, three, four):
        assert host.heard(1) == [after], "and nothing before it"
    two.datapath.set_group_tree(ShortID(2), LISTENED, Tree(None, (ShortID(3),)))
    own = frame(2, LISTENED, "to one side only")
    two.send(own)
    assert three.heard(1) == [own]
    to_all = frame(2, LISTENED[:5] + b"\4", "to both sides")
    two.send(to_all)
    assert one.heard(1) == [to_all], "and nothing before it"
    for host in (three, four):
        host.heard(1)
    two.datapath.drop_group_tree(ShortID(2), LISTENED)
    two.datapath.drop_group_tree(ShortID(1), LISTENED)
    assert two.datapath.tables().groups == {}
    one.send(sent)
    assert two.heard(1) == [sent] == three.heard(1)
    assert all(drops(host) == {} for host in chain.hosts)


def test_groups_come_from_their_parent_too(chain: Chain) -> None:
    greet(chain)
    one, two, _, _ = chain.hosts
    two.datapath.set_group_tree(ShortID(4), LISTENED, Tree(ShortID(3), here=True))
    one.forge(two, 4, 2, frame(4, LISTENED, "from the wrong side"))
    good = frame(1, mac(2), "good")
    one.send(good)
    assert two.heard(1) == [good]
    assert drops(two) == {Drop.BAD_SOURCE: 1}


def test_reports_come_up_and_go_on(chain: Chain) -> None:
    greet(chain)
    one, two, _, _ = chain.hosts
    report = igmp(1)
    one.send(report)
    assert two.heard(1) == [report]
    assert one.upcalls(1) == [Upcall(Reason.REPORT, ShortID(1), ShortID(1), report)]
    assert two.datapath.counters().upcalls == 0, "of others' pods nobody is told"
    one.send(frame(1, LISTENED, "no report"))
    two.heard(1)
    assert one.datapath.counters().upcalls == 1
