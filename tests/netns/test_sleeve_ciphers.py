"""Real workers that seal with ChaCha20-Poly1305, and with different ciphers for different peers.

docs/protocol.md 10.4 and 11.2.
"""

from __future__ import annotations

import os

import pytest

from bench.nodes import Cable, Node, World, keys
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher
from tests.netns.traffic import MARKER, drain, eventually, listen_to, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sc{os.getpid() % 1000}"
AES, CHACHA = Cipher.AES_256_GCM, Cipher.CHACHA20_POLY1305


def install(node: Node, other: Node, epoch: int, cipher: Cipher) -> None:
    node.say(keys(node.number, other.number, epoch, cipher))
    assert node.wait_for(w.EpochInstalled) == w.EpochInstalled(other.short_id, epoch)


def change(a: Node, b: Node, epoch: int, cipher: Cipher) -> None:
    """As 5.3 has it: installed at both ends before either sends under it."""
    for node, other in ((a, b), (b, a)):
        install(node, other, epoch, cipher)
    for node, other in ((a, b), (b, a)):
        node.say(w.ActivateEpoch(other.short_id, epoch))
        node.counters()


@pytest.mark.parametrize("offloads", [False, True], ids=["offloads-off", "offloads-on"])
def test_two_hosts_without_instructions_for_aes(offloads: bool) -> None:
    """What AES-256-GCM carries is carried by the other as well, and nobody reads it."""
    with World(TAG, 2, [Cable(1, 2)], offloads=offloads, cipher=CHACHA) as world:
        a, b = world.nodes
        with listen_to(a.namespace, "u1") as ear:
            assert "3 received" in ping(a, b, "-p", MARKER[:16].hex())
            packets = drain(ear)
            assert packets
            assert not any(MARKER[:16] in packet for packet in packets)
        transfer(a, b, 20_000_000)
        transfer(b, a, 5_000_000)
        for node in (a, b):
            assert set(node.drops()) <= {"too-big"}


def test_a_relay_carries_what_it_has_no_key_for() -> None:
    """10.5"""
    with World(TAG, 3, [Cable(1, 2), Cable(2, 3)], via={(1, 3): 2}, cipher=CHACHA) as world:
        a, relay, c = world.nodes
        assert "3 received" in ping(a, c)
        transfer(a, c, 3_000_000)
        assert relay.counters().relayed > 2000
        assert set(relay.drops()) <= {"too-big"}  # cut off in a change of mode


def test_each_peer_has_its_own() -> None:
    """A mesh of different processors: one worker seals for two peers in two ways."""
    with World(TAG, 3, [Cable(1, 2), Cable(1, 3)], via={(2, 3): 1}) as world:
        a, b, c = world.nodes
        change(a, b, 2, CHACHA)
        change(b, c, 2, CHACHA)
        for one, other in ((a, b), (a, c), (b, c)):
            assert "3 received" in ping(one, other)
            transfer(one, other, 2_000_000)
        for node in world.nodes:
            assert not node.drops().keys() & {"unknown-epoch", "wrong-tag", "no-key", "unauthentic"}


def test_ciphers_change_with_the_epoch_and_no_frame_is_lost() -> None:
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        for epoch in range(2, 8):
            change(a, b, epoch, (AES, CHACHA)[epoch % 2])
            transfer(a, b, 500_000)
            for node, other in ((a, b), (b, a)):
                node.say(w.RetireEpoch(other.short_id, epoch - 1))
        for node in (a, b):
            assert not node.drops().keys() & {"unknown-epoch", "wrong-tag", "no-key", "unauthentic"}


def test_ends_of_different_opinion_understand_nothing() -> None:
    """The tests above can fail: the same keys under two ciphers."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        install(a, b, 2, CHACHA)
        install(b, a, 2, AES)
        a.say(w.ActivateEpoch(b.short_id, 2))
        assert "100% packet loss" in ping(a, b, "-W", "1", check=False)
        eventually(lambda: b.drops().get("unauthentic", 0) >= 3)
