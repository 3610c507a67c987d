"""Workers of several processes: one lane each, told as one (docs/protocol.md 11.5)."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from bench.nodes import Cable, World, inside, run_in
from mesh.wire import worker as w
from tests.netns.traffic import drain, eventually, listen_to, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sl{os.getpid() % 1000}"
CHAIN = [Cable(1, 2), Cable(2, 3)]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_hosts_with_different_numbers_of_lanes(encrypted: bool) -> None:
    """11.5: three, one and two; a lane's datagrams find the one that serves it, relayed too."""
    via = {(1, 3): 2}
    with World(TAG, 3, CHAIN, via=via, lanes=(3, 1, 2), encrypted=encrypted) as world:
        a, b, c = world.nodes
        for one, other in ((a, b), (a, c), (c, a), (b, c)):
            assert "3 received" in ping(one, other)
            for _ in range(4):  # flows: some go by one lane, some by another
                transfer(one, other, 3_000_000)
        world.introduce(epoch=2)
        transfer(a, c, 3_000_000)
        for node in world.nodes:
            assert set(node.drops()) <= {"too-big", "flood-limit"}


def test_flows_use_more_than_one_lane() -> None:
    """11.5: the kernel spreads flows over the queues of the TAP."""
    with World(TAG, 2, [Cable(1, 2)], lanes=(4, 4)) as world:
        a, b = world.nodes
        with listen_to(b.namespace, "u1") as ear:
            for port in range(32):
                run_in(a.pod, "bash", "-c", f"echo x > /dev/udp/{b.address}/{7000 + port}")
            lanes = {packet[14 + 20 + 8 + 12] for packet in drain(ear)
                     if packet[12:14] == b"\x08\x00" and packet[23] == 17}  # fmt: skip
        assert len(lanes) > 1
        assert lanes <= set(range(4))


def test_each_broadcast_once() -> None:
    """10.7, 11.5: whichever queue a broadcast is read from, one lane sends and receives it."""
    with World(TAG, 3, [Cable(1, 2), Cable(1, 3), Cable(2, 3)], lanes=(3, 2, 1)) as world:
        a, *others = world.nodes
        ears = [listen_to(node.pod, "eth0") for node in others]
        for n in range(20):  # a socket each: flows that the kernel spreads over the queues
            with inside(a.pod, broadcaster) as sock:
                sock.sendto(b"broadcast %02d" % n, ("10.98.0.255", 7000 + n))
        for ear in ears:
            heard = [packet[42:] for packet in drain(ear) if b"broadcast" in packet]
            ear.close()
            assert sorted(heard) == [b"broadcast %02d" % n for n in range(20)]


def broadcaster() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return sock


def test_lanes_tell_each_other_where_addresses_are() -> None:
    """11.5: no lane floods for what another has learned."""
    with World(TAG, 2, [Cable(1, 2)], lanes=(4, 4)) as world:
        a, b = world.nodes
        assert "3 received" in ping(a, b)

        def known() -> bool:
            a.say(w.GetMacs())
            return a.wait_for(w.Macs).total >= 2

        eventually(known)
        assert a.lanes == 4
        before = a.counters().tx_frames
        for _ in range(8):
            transfer(a, b, 200_000)
        assert a.counters().tx_frames > before
        assert "flood-limit" not in a.drops()


def test_a_lane_that_dies_takes_the_others_along() -> None:
    """11.4, 11.5: what is left of a worker would go on under keys that must not be used again."""
    with World(TAG, 2, [Cable(1, 2)], lanes=(3, 1)) as world:
        a, _ = world.nodes
        os.kill(a.pid, signal.SIGKILL)
        eventually(lambda: a.running() == 0)
