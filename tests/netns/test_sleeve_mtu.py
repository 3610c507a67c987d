"""What does not fit: narrow underlays, pods that send too much, probes of every size.

docs/protocol.md 10.2, 10.6 and 10.10.

Why it is built so: sleeve.md 8.
"""

from __future__ import annotations

import os

import pytest

from bench.nodes import Cable, World, run_in
from mesh.wire import worker as w
from tests.netns.traffic import drain, eventually, listen_to, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sm{os.getpid() % 1000}"


@pytest.mark.parametrize("offloads", [False, True], ids=["offloads-off", "offloads-on"])
def test_an_underlay_of_1280_carries_pods_of_1420(offloads: bool) -> None:
    """10.2: a record is cut to what fits, so the underlay's MTU is nothing to the pods."""
    with World(TAG, 2, [Cable(1, 2, mtu=1280)], pod_mtu=1420, mtu=1420, offloads=offloads) as world:
        a, b = world.nodes
        assert "3 received" in ping(a, b, "-M", "do", "-s", "1392")
        transfer(a, b, 20_000_000)
        # A run that came in the very moment of a change of mode is cut off.
        assert a.drops().get("too-big", 0) < 64


def test_a_packet_too_big_is_answered() -> None:
    """10.10: frag-needed and packet-too-big with the receiver's MTU reach the pod."""
    with World(TAG, 2, [Cable(1, 2)], pod_mtu=9000, mtu=1420) as world:
        a, b = world.nodes
        said = ping(a, b, "-M", "do", "-s", "3000", check=False)
        assert "mtu = 1420" in said or "mtu=1420" in said, said
        assert a.drops().get("too-big", 0) > 0
        flush = ("ip", "-6", "route", "flush", "cache")
        run_in(a.pod, *flush)
        said = run_in(a.pod, "ping", "-6", "-c", "2", "-M", "do", "-s", "3000", "-W", "1",
                      b.address6, check=False)  # fmt: skip
        assert "mtu = 1420" in said or "mtu=1420" in said, said
        # And what fits goes on crossing.
        assert "3 received" in ping(a, b, "-M", "do", "-s", "1392")


def test_tcp_learns_the_mtu_from_the_answer() -> None:
    """10.10: a pod that believes in 9,000 octets gets its transfer through."""
    with World(TAG, 2, [Cable(1, 2)], pod_mtu=9000, mtu=1420) as world:
        a, b = world.nodes
        transfer(a, b, 5_000_000)
        assert 0 < a.drops()["too-big"] < 100


def test_a_packet_without_df_is_fragmented() -> None:
    """10.10: IPv4 that may be cut up is cut up, checksums right."""
    with World(TAG, 2, [Cable(1, 2)], pod_mtu=9000, mtu=1420) as world:
        a, b = world.nodes
        with listen_to(b.pod, "eth0") as ear:
            assert "3 received" in ping(a, b, "-M", "dont", "-s", "4000")
            heard = [p for p in drain(ear) if p[12:14] == b"\x08\x00" and p[6:12] != p[0:6]]
        requests = [p for p in heard if p[26:30] == bytes(map(int, a.address.split(".")))]
        assert max(len(p) for p in requests) <= 14 + 1420
        assert len(requests) >= 3 * 3


def test_probes_find_what_a_path_carries() -> None:
    """10.6: a probe that fits is answered with its round trip, one that does not is not; what
    the kernel knows to be too big is told at once."""
    with World(TAG, 2, [Cable(1, 2, mtu=1400)]) as world:
        a, b = world.nodes
        for nonce, size in ((1, 64), (2, 1372)):
            a.say(w.Probe(b.short_id, nonce, size))
            reply = a.wait_for(w.ProbeReplied)
            assert (reply.short_id, reply.nonce, reply.size) == (b.short_id, nonce, size)
            assert 0 < reply.rtt_us < 1_000_000
        a.say(w.Probe(b.short_id, 3, 1373))
        assert a.wait_for(w.TooBig) == w.TooBig(b.short_id, 1373)
        # A path that is narrower further on says nothing; the next that fits is answered.
        run_in(b.namespace, "nft", "add table inet t")
        run_in(b.namespace, "nft", "add chain inet t c { type filter hook input priority 0; }")
        run_in(b.namespace, "nft", "add rule inet t c udp dport 6783 meta length > 1328 drop")
        a.say(w.Probe(b.short_id, 4, 1301))
        a.say(w.Probe(b.short_id, 5, 1300))
        assert a.wait_for(w.ProbeReplied).nonce == 5


def test_a_probe_from_elsewhere_is_told() -> None:
    """10.6: a neighbour behind a NAT is found by where its authentic probes come from."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        run_in(a.namespace, "ip", "addr", "add", "10.99.1.77/24", "dev", "u1")
        run_in(a.namespace, "ip", "route", "change", "10.99.1.0/24", "dev", "u1",
               "src", "10.99.1.77")  # fmt: skip
        a.say(w.Probe(b.short_id, 1, 64))
        seen = b.wait_for(w.ProbeSeen)
        assert (seen.short_id, str(seen.endpoint)) == (a.short_id, "10.99.1.77:6783")
        assert a.wait_for(w.ProbeReplied).nonce == 1


def test_a_segment_that_shrank_is_told() -> None:
    """11.3: EMSGSIZE becomes TooBig, and a smaller segment makes traffic flow again."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        ping(a, b)
        for node in (a, b):
            run_in(node.namespace, "ip", "link", "set", "u1", "mtu", "1300")
        ping(a, b, "-s", "1392", check=False)
        told = a.wait_for(w.TooBig)
        assert told.short_id == b.short_id
        assert 1272 < told.size <= 1472
        for node, other in ((a, b), (b, a)):
            endpoint = node.endpoint_of(other)
            node.say(w.SetNeighbour(other.short_id, endpoint, 1272))
        eventually(lambda: "3 received" in ping(a, b, "-s", "1392", check=False))
        transfer(a, b, 3_000_000)
