"""Traffic of pods through real workers in namespaces: direct, relayed, broadcast, encrypted.

docs/protocol.md 10.

Why it is built so: sleeve.md 5.
"""

from __future__ import annotations

import os
import socket
from collections import Counter

import pytest

from bench.nodes import Cable, World, inside, run_in
from tests.netns.traffic import MARKER, drain, eventually, listen_to, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"st{os.getpid() % 1000}"
CHAIN = [Cable(1, 2), Cable(2, 3)]


@pytest.mark.parametrize("offloads", [False, True], ids=["offloads-off", "offloads-on"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_two_hosts(offloads: bool, encrypted: bool) -> None:
    """10.1: frames cross as they are, whatever the path does with datagrams."""
    with World(TAG, 2, [Cable(1, 2)], offloads=offloads, encrypted=encrypted) as world:
        a, b = world.nodes
        assert "3 received" in ping(a, b)
        transfer(a, b, 60_000_000)
        transfer(b, a, 5_000_000)
        for node in (a, b):
            # A run that came in the very moment of a change of mode is cut off.
            assert set(node.drops()) <= {"too-big"}


def test_a_relay_forwards_what_it_cannot_read() -> None:
    """10.5: a relay needs no key; the marker in the payload is on no underlay link."""
    with World(TAG, 3, CHAIN, via={(1, 3): 2}) as world:
        a, relay, c = world.nodes
        ears = [listen_to(relay.namespace, device) for device in ("u1", "u2")]
        assert "3 received" in ping(a, c, "-p", MARKER[:16].hex())
        transfer(a, c, 3_000_000)
        for ear in ears:
            packets = drain(ear)
            ear.close()
            assert sum(map(len, packets)) > 3_000_000, "the listener heard the transfer"
            assert not any(MARKER[:16] in packet for packet in packets)
        counters = relay.counters()
        assert counters.relayed > 2000
        assert counters.rx_octets < 10_000, "only broadcasts are for the relay itself"
        assert set(relay.drops()) <= {"too-big"}  # cut off in a change of mode


def test_the_listener_would_see_a_marker() -> None:
    """The same transfer without keys does show the marker: the test above can fail."""
    with World(TAG, 2, [Cable(1, 2)], encrypted=False) as world:
        a, b = world.nodes
        with listen_to(a.namespace, "u1") as ear:
            assert "3 received" in ping(a, b, "-p", MARKER[:16].hex())
            assert any(MARKER[:16] in packet for packet in drain(ear))


def test_a_broadcast_reaches_each_peer_exactly_once() -> None:
    """10.7: along the tree, also over a relay, and again when datagrams come twice."""
    with World(TAG, 3, CHAIN, via={(1, 3): 2}) as world:
        a, b, c = world.nodes
        underlay = listen_to(b.namespace, "u1")
        ears = {node: listen_to(node.pod, "eth0") for node in (b, c)}
        speaker = inside(a.pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        speaker.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for n in range(200):
            speaker.sendto(MARKER + n.to_bytes(2, "big"), ("10.98.0.255", 9))
        speaker.close()
        eventually(lambda: c.counters().rx_frames >= 200)
        # Every datagram that came over the first cable comes once more.
        again = [p[42:] for p in drain(underlay) if p[12:14] == b"\x08\x00" and p[23] == 17]
        assert again
        forger = inside(a.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for datagram in again:
            forger.sendto(datagram, ("10.99.1.2", 6783))
        forger.close()
        eventually(lambda: b.drops().get("replayed", 0) >= len(again) // 2)
        for node, ear in ears.items():
            heard = Counter(p[p.index(MARKER) :] for p in drain(ear) if MARKER in p)
            ear.close()
            assert len(heard) == 200, node.number
            assert set(heard.values()) == {1}, node.number
        underlay.close()


def test_unicast_to_an_unknown_address_is_sealed_for_each_peer() -> None:
    """10.8: every host hears it, but a relay in between cannot read it."""
    with World(TAG, 3, CHAIN, via={(1, 3): 2}) as world:
        a, b, c = world.nodes
        frame = bytes.fromhex("0299aabbccdd 02aa00000001 88b5") + MARKER
        ears = [listen_to(node.pod, "eth0") for node in (b, c)]
        speaker = inside(a.pod, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        speaker.bind(("eth0", 0x88B5))
        speaker.send(frame)
        speaker.close()
        eventually(lambda: b.counters().rx_frames >= 1 and c.counters().rx_frames >= 1)
        for ear in ears:
            assert sum(MARKER in packet for packet in drain(ear)) == 1
            ear.close()


def test_jumbo_underlay() -> None:
    """10.2: datagrams are as large as the path carries; slots are laid out for them."""
    with World(TAG, 2, [Cable(1, 2, mtu=9000)], offloads=False) as world:
        a, b = world.nodes
        with listen_to(a.namespace, "u1") as ear:
            transfer(a, b, 2_000_000)
            assert max(map(len, drain(ear))) == 9014
        transfer(a, b, 30_000_000)


def test_relay_over_a_narrow_cable() -> None:
    """10.5: runs are relayed as they lie also where datagrams are smaller than Ethernet's."""
    cables = [Cable(1, 2, mtu=1500), Cable(2, 3, mtu=1280)]
    with World(TAG, 3, cables, via={(1, 3): 2}) as world:
        a, relay, c = world.nodes
        transfer(a, c, 20_000_000)
        transfer(a, relay, 20_000_000)
        transfer(c, a, 5_000_000)
        # A run that came in the very moment of a change of mode is cut off.
        assert a.drops().get("too-big", 0) < 64


def test_lossy_underlay_shrinks_records() -> None:
    """10.9: records become small where datagrams are lost, large when the loss has gone."""
    with World(TAG, 2, [Cable(1, 2)], offloads=False) as world:
        a, b = world.nodes
        run_in(b.namespace, "nft", "add table inet t")
        run_in(b.namespace, "nft", "add chain inet t c { type filter hook input priority 0; }")
        rule = "add rule inet t c udp dport 6783 numgen random mod 100 < 3 drop"
        with listen_to(b.namespace, "u1") as ear:
            transfer(a, b, 3_000_000, within=60)
            assert max(_totals(drain(ear))) > 30, "records are large until loss is reported"
            run_in(b.namespace, "nft", rule)
            transfer(a, b, 1_000_000, within=60)
            eventually(lambda: b.drops().get("record-incomplete", 0) > 0)
            transfer(a, b, 6_000_000, within=60)
            drain(ear)
            transfer(a, b, 1_000_000, within=60)
            assert max(_totals(drain(ear))) <= 3
            run_in(b.namespace, "nft", "flush ruleset")

            def is_large() -> bool:
                transfer(a, b, 3_000_000, within=60)
                return max(_totals(drain(ear))) > 30

            eventually(is_large, within=60)


def _totals(packets: list[bytes]) -> list[int]:
    """Of each sleeve datagram with sealed frames from host 1: how many its record has."""
    return [
        p[42 + 21]
        for p in packets
        if len(p) > 66 and p[23] == 17 and p[42] == 1 and p[44:46] == b"\0\1"
    ]
