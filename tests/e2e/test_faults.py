"""What real daemons make of a data plane that fails under them while pods talk.

docs/protocol.md 10.4, 11.1, 11.4: they live, say why, and recover; no key is used twice.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mesh.wire.sleeve import KINDS
from tests.e2e.daemons import addresses, site_of, until, weaver
from tests.netns.traffic import listen_to
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.traffic import ping

pytestmark = pytest.mark.e2e
PATIENCE = 60.0
"""Seconds that a test waits for what must be so sooner, on a machine that others use too."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Lab]:
    lab = Lab("faulttest", quiet=True)
    lab.down()
    lab.up(Order(name="faulttest", hosts=2, shape=Shape.MESH, pods=1), "x")
    yield lab
    lab.down()


@contextmanager
def load(mesh: Lab) -> Iterator[None]:
    """Echoes a hundred times a second from a pod of h1 to one of h2, whatever becomes of them."""
    near, known = mesh.plan().host("h1").pods[0], addresses(mesh)
    far = known[mesh.plan().host("h2").pods[0].name]
    command = kernel.inside(near.namespace, ["ping", "-n", "-q", "-i", "0.01", "-s", "1300", far])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def pods_talk(mesh: Lab, known: dict[str, str]) -> bool:
    near, far = (mesh.plan().host(name).pods[0] for name in ("h1", "h2"))
    return ping(near, known[far.name])


def until_pods_talk(mesh: Lab, known: dict[str, str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not pods_talk(mesh, known):
        assert time.monotonic() < deadline, site_of(mesh, "h1").last_words()


def status(mesh: Lab, name: str) -> dict[str, Any]:
    return dict(json.loads(weaver(site_of(mesh, name), "status", "--json").stdout))


def lost(mesh: Lab, name: str) -> list[str]:
    """Why this host's worker was lost so far."""
    events = json.loads(weaver(site_of(mesh, name), "report").stdout)["events"]
    return [row["reason"] for row in events if row["event"] == "worker lost"]


def test_a_worker_killed_under_load_uses_no_key_twice(mesh: Lab) -> None:
    """10.4, 11.1: what crosses the underlay under one key has a number of its own, ever."""
    h1, known = mesh.plan().host("h1"), addresses(mesh)
    device = "to-h2"
    off = ("tso", "off", "gso", "off", "tx", "off")
    kernel.run(*kernel.inside(h1.namespace, ["ethtool", "-K", device, *off]))
    with listen_to(h1.namespace, device) as ear, load(mesh):
        packets: list[bytes] = []
        for _ in range(3):
            (pid,) = status(mesh, "h1")["worker"]["pids"][:1]
            os.kill(pid, signal.SIGKILL)
            until_new_worker(mesh, pid)
            until_pods_talk(mesh, known)
            packets += drain_some(ear)
    seen: dict[bytes, bytes] = {}
    epochs = set()
    for packet in packets:
        data = packet[42:]
        if (
            packet[12:14] != b"\x08\x00"
            or packet[23] != 17
            or len(data) < 40
            or data[0] not in KINDS
        ):
            continue
        # Ours and theirs: short IDs, epoch, tag, number, index; hops apart.
        key = data[2:21]
        assert seen.setdefault(key, data[24:]) == data[24:], "a number used twice under one key"
        epochs.add(data[2:12])
    assert len(epochs) >= 4, "each worker has keys of its own, in each direction"
    assert lost(mesh, "h1").count("worker-died") >= 3
    drops = dict(site_of(mesh, "h2").get("/v1/status")["worker_counters"]["drops"])
    assert "replayed" not in drops


def until_new_worker(mesh: Lab, old: int) -> None:
    def is_new() -> bool:
        pids = status(mesh, "h1")["worker"]["pids"]
        return bool(pids) and old not in pids

    until(is_new, site_of(mesh, "h1").last_words)


def drain_some(ear: socket.socket) -> list[bytes]:
    """What has come up to now; more comes all the time."""
    ear.setblocking(False)
    packets: list[bytes] = []
    while len(packets) < 20_000:
        try:
            packets.append(ear.recv(1 << 17))
        except BlockingIOError:
            return packets
    return packets


def delete_tap(mesh: Lab) -> Callable[[], object]:
    kernel.run("ip", "-n", mesh.plan().host("h1").namespace, "link", "del", tap_of(mesh))
    return lambda: None


def tap_of(mesh: Lab) -> str:
    namespace = mesh.plan().host("h1").namespace
    links = json.loads(kernel.run("ip", "-n", namespace, "-d", "-j", "link", "show"))
    (name,) = (
        link["ifname"] for link in links if link.get("linkinfo", {}).get("info_kind") == "tun"
    )
    return str(name)


def tap_down(mesh: Lab) -> Callable[[], object]:
    return set_down(mesh, tap_of(mesh))


def interface_down(mesh: Lab) -> Callable[[], object]:
    return set_down(mesh, "to-h2")


def set_down(mesh: Lab, device: str) -> Callable[[], object]:
    namespace = mesh.plan().host("h1").namespace
    link, routes = ["ip", "-n", namespace, "link", "set", device], routes_of(namespace)
    kernel.run(*link, "down")

    def mend() -> None:
        kernel.run(*link, "up")
        give_back(namespace, routes)

    return mend


def routes_of(namespace: str) -> list[str]:
    return kernel.run("ip", "-n", namespace, "-4", "route", "show").splitlines()


def give_back(namespace: str, routes: list[str]) -> None:
    """What the kernel removed with the device or its address, as an operator's tools would."""
    for route in routes:
        words = [word for word in route.split() if word != "linkdown"]
        kernel.run("ip", "-n", namespace, "-4", "route", "replace", *words)


def address_gone(mesh: Lab) -> Callable[[], object]:
    namespace = mesh.plan().host("h1").namespace
    (row,) = json.loads(kernel.run("ip", "-n", namespace, "-4", "-j", "addr", "show", "to-h2"))
    address = f"{row['addr_info'][0]['local']}/{row['addr_info'][0]['prefixlen']}"
    change, routes = ["ip", "-n", namespace, "addr"], routes_of(namespace)
    kernel.run(*change, "del", address, "dev", "to-h2")

    def mend() -> None:
        kernel.run(*change, "add", address, "dev", "to-h2")
        give_back(namespace, routes)

    return mend


@pytest.mark.parametrize(
    "fault", [delete_tap, tap_down, interface_down, address_gone], ids=lambda fault: fault.__name__
)
def test_a_device_that_goes_under_traffic(mesh: Lab, fault: Callable[..., Any]) -> None:
    """11.4: the daemon lives and answers meanwhile, explains, and pods talk when it is back."""
    known = addresses(mesh)
    until_pods_talk(mesh, known)
    with load(mesh):
        before = len(lost(mesh, "h1"))
        mend = fault(mesh)
        assert status(mesh, "h1")["worker"], "the daemon answers"
        if fault is delete_tap:
            until(lambda: lost(mesh, "h1")[before:] == ["tap-gone"], lambda: lost(mesh, "h1"))
        else:
            until(lambda: not pods_talk(mesh, known), site_of(mesh, "h1").last_words)
        mend()
        until_pods_talk(mesh, known)
    assert status(mesh, "h1")["worker"]["pids"]
