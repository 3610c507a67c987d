"""The MTU of pods under real daemons: found by itself, and followed (docs/fastdp.md 11)."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from itertools import permutations

import pytest

from tests.e2e.daemons import addresses, site_of, until_all_pairs, weaver
from tests.e2e.test_fastdp import PATIENCE, by, talking, until
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Order

pytestmark = pytest.mark.e2e
PAIR = ("h1", "h2")


def eventually(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def mtu_of(namespace: str, device: str) -> int:
    shown = kernel.run("ip", "-n", namespace, "-j", "link", "show", device)
    return int(json.loads(shown)[0]["mtu"])


def pods_have(lab: Lab, mtu: int) -> Callable[[], bool]:
    def so() -> bool:
        hosts = lab.plan().hosts
        return all(mtu_of(h.pods[0].namespace, "eth0") == mtu for h in hosts) and all(
            mtu_of(h.namespace, "weave") == mtu for h in hosts
        )

    return so


def passes(lab: Lab, size: int) -> bool:
    """Whether a packet of so many octets that may not be cut gets there, and its answer back."""
    near, far = (lab.plan().host(name).pods[0] for name in PAIR)
    ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", str(size - 28)]
    command = kernel.inside(near.namespace, [*ping, addresses(lab)[far.name]])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_pods_use_what_the_underlay_has_and_follow_it() -> None:
    """An underlay of 9,000 that becomes one of 1,500 under a connection of pods."""
    lab = Lab("mtutest", quiet=True)
    lab.down()
    lab.up(Order(name="mtutest", hosts=2, pods=1, mtu=9000))
    try:
        for here, there in permutations(PAIR):
            until(lab, here, there, by("fastdp"))
        known = addresses(lab)
        until_all_pairs(lab, known, 10)
        eventually(pods_have(lab, 8950))
        eventually(lambda: passes(lab, 8950))
        assert "8950 (underlay 9000 towards" in weaver(site_of(lab, "h1"), "status").stdout
        near, far = (lab.plan().host(name).pods[0] for name in PAIR)
        with talking(lab, near.namespace, far.namespace, known[far.name]) as words:
            eventually(lambda: words() > 5)
            for host, other in permutations(lab.plan().hosts):
                wire = f"to-{other.name}"
                kernel.run("ip", "-n", host.namespace, "link", "set", wire, "mtu", "1500")
            eventually(pods_have(lab, 1450))
            eventually(lambda: passes(lab, 1450))
            for here, there in permutations(PAIR):
                row = until(lab, here, there, by("fastdp"))
                assert row["kernel_path"]["mtu"] == 1450
            said = words()
            eventually(lambda: words() > said + 20)
        assert not passes(lab, 1451)
    finally:
        lab.down()
