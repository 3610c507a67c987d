"""Frames by the kernel under real daemons (docs/protocol.md 14).

Bounds are read from the history that the daemons keep, in their own time.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from bench.resting import during
from tests.e2e.daemons import addresses, site_of, started, until_all_pairs, weaver
from weaver.lab import kernel
from weaver.lab.capture import Tap, capturing, holds, octets_on
from weaver.lab.lab import Lab
from weaver.lab.plan import Host, Order, Shape
from weaver.lab.processes import kill, spawn
from weaver.lab.traffic import send_marked, tcp_rate

pytestmark = pytest.mark.e2e
FALL_BACK, RETURN = 3.0, 60.0
PATIENCE = 120.0
"""Seconds that a test waits for what must be so sooner, on a machine that others use too."""

TRUSTED = "--trusted-subnets=172.31.0.0/16"


def links(lab: Lab, name: str) -> dict[str, dict[str, Any]]:
    """What a host shows of its peers, by nickname."""
    return {row["nickname"]: row for row in site_of(lab, name).get("/v1/links") or ()}


def until(lab: Lab, here: str, there: str, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        row = links(lab, here).get(there)
        if row is not None and so(row):
            return row
        assert time.monotonic() < deadline, json.dumps(row)
        time.sleep(0.1)


def by(overlay: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row["overlay"] == overlay and row["state"] != "down"


def until_overlays(lab: Lab, expected: Callable[[str, str], str]) -> None:
    names = [host.name for host in lab.plan().hosts]
    for here, there in permutations(names, 2):
        until(lab, here, there, by(expected(here, there)))


def frames_by_sleeve(lab: Lab) -> dict[str, int]:
    """Frames that each host's worker read, wrote or relayed."""
    found = {}
    for host in lab.plan().hosts:
        site = site_of(lab, host.name)
        # Counted every second, so there is nothing in the first one.
        _wait(lambda site=site: (site.get("/v1/status") or {}).get("worker_counters") is not None)  # type: ignore[misc]  # bound early
        report = json.loads(weaver(site, "report").stdout)
        counted = report["worker_counters"]
        found[host.name] = sum(counted[n] for n in ("tx_frames", "rx_frames", "relayed"))
        found[host.name] += report["fastdp"]["to_sleeve"]
    return found


@contextmanager
def dropped(at: Host, rule: str) -> Iterator[None]:
    """Datagrams that arrive at a host and match are gone without a word."""
    chain = f"type filter hook prerouting priority 0; {rule} drop;"
    table = f"table inet paths {{\n chain in {{ {chain} }}\n}}\n"
    kernel.run(*kernel.inside(at.namespace, ["nft", "-f", "-"]), stdin=table)
    try:
        yield
    finally:
        kernel.run(*kernel.inside(at.namespace, ["nft", "delete", "table", "inet", "paths"]))


_LISTEN = """
import select, socket, struct, sys, time
socks = []
for port, group in ((5400, None), (5401, "239.1.2.3")):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", port))
    if group:
        mreq = socket.inet_aton(group) + socket.inet_aton(sys.argv[1])
        s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq)
    socks.append(s)
print("ready", flush=True)
while True:
    for s in select.select(socks, [], [])[0]:
        print(s.recv(100).decode(), flush=True)
"""
_SHOUT = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[2]))
for n in range(20):
    for kind, to in (("b", ("255.255.255.255", 5400)), ("m", ("239.1.2.3", 5401))):
        s.sendto(f"{sys.argv[1]} {kind} {n}".encode(), to)
    time.sleep(0.01)
"""
SHOUTS = {f"{kind} {n}" for kind in "bm" for n in range(20)}


def assert_everybody_hears_once(lab: Lab, directory: Path) -> None:
    """Broadcasts and multicasts of every pod, counted at every other: exactly once."""
    pods, known = lab.plan().pods, addresses(lab)
    logs = {pod.name: directory / f"heard-{pod.name}" for pod in pods}
    listening = [
        spawn(
            kernel.inside(pod.namespace, [sys.executable, "-c", _LISTEN, known[pod.name]]),
            {},
            logs[pod.name],
        )
        for pod in pods
    ]
    try:
        _wait(lambda: all("ready" in log.read_text() for log in logs.values()))
        for pod in pods:
            kernel.run("ip", "-n", pod.namespace, "route", "replace", "default", "dev", "eth0")
            shout = [sys.executable, "-c", _SHOUT, pod.name, known[pod.name]]
            kernel.run(*kernel.inside(pod.namespace, shout))

        def heard(name: str) -> Counter[str]:
            return Counter(logs[name].read_text().split("\n"))

        def complete() -> bool:
            return all(
                heard(here.name).keys() >= {f"{there.name} {shout}" for shout in SHOUTS}
                for here, there in permutations(pods, 2)
            )

        _wait(complete)
        for pod in pods:
            twice = {k: n for k, n in heard(pod.name).items() if k and n > 1}
            assert not twice, f"{pod.name} heard {twice}"
    finally:
        kill(listening)


def _wait(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ---- a chain


@pytest.fixture(scope="module")
def chain() -> Iterator[Lab]:
    lab = Lab("kernelchain", quiet=True)
    lab.down()
    lab.up(Order(name="kernelchain", hosts=5, shape=Shape.CHAIN, pods=1))
    yield lab
    lab.down()
    assert not [n for n in kernel.namespaces() if n.startswith("kernelchain")]


def test_the_ends_of_a_chain_talk_through_three_kernels(chain: Lab, tmp_path: Path) -> None:
    """protocol.md 14.2: and no daemon or worker reads a frame of it."""
    until_overlays(chain, lambda _a, _b: "fastdp")
    plan, known = chain.plan(), addresses(chain)
    until_all_pairs(chain, known, 10)
    near, far = plan.host("h1").pods[0], plan.host("h5").pods[0]
    row = links(chain, "h1")["h5"]
    assert (row["state"], row["hops"], row["not_kernel"]) == ("relayed", 4, None)
    before = frames_by_sleeve(chain)
    relayed = links(chain, "h3")["h5"]["kernel"]["relayed_octets"]
    done = during(chain, lambda: tcp_rate(near, far, known[far.name], tmp_path / "iperf", 3))
    assert frames_by_sleeve(chain) == before
    passed = links(chain, "h3")["h5"]["kernel"]["relayed_octets"] - relayed
    assert passed > 50_000_000, "the relay counts what it passes on"
    assert done.frames == 0, "no frame on a device that leads to a process"
    assert done.octets_read < passed / 100, "nor did processes read as much as it was"
    assert done.seconds < 0.5 + passed / 1e9, "nor had they the time: the sleeve needs thrice that"
    assert_everybody_hears_once(chain, tmp_path)
    shown = weaver(site_of(chain, "h1"), "status").stdout
    assert "4 of 4 peers by the kernel" in shown


_JOIN = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
             socket.inet_aton("239.9.9.9") + socket.inet_aton(sys.argv[1]))
time.sleep(600)
"""
_TO_GROUP = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
for n in range(50):
    s.sendto(b"x", ("239.9.9.9", 5402))
"""


def test_a_group_is_carried_to_its_listeners(chain: Lab, tmp_path: Path) -> None:
    """protocol.md 14.9: to h4 through h2 and h3, and not to h5; to all once nobody listens."""
    until_overlays(chain, lambda _a, _b: "fastdp")
    plan, known = chain.plan(), addresses(chain)
    pod, speaker = plan.host("h4").pods[0], plan.host("h1").pods[0]
    for place in (pod, speaker):
        kernel.run("ip", "-n", place.namespace, "route", "replace", "default", "dev", "eth0")

    def grown() -> dict[str, int]:
        """Frames of h1 that each host was given while it spoke to the group."""

        def count(host: str) -> int:
            counted = links(chain, host)["h1"]["kernel"]
            return 0 if counted is None else int(counted["rx_frames"])

        before = {host: count(host) for host in ("h4", "h5")}
        speak = [sys.executable, "-c", _TO_GROUP, known[speaker.name]]
        kernel.run(*kernel.inside(speaker.namespace, speak))
        return {host: count(host) - n for host, n in before.items()}

    def is_carried(*, far: bool) -> bool:
        new = grown()
        return new["h4"] >= 50 and (new["h5"] >= 50) == far

    join = [sys.executable, "-c", _JOIN, known[pod.name]]
    listener = spawn(kernel.inside(pod.namespace, join), {}, tmp_path / "listener")
    try:
        _wait(lambda: is_carried(far=False))
    finally:
        kill([listener])
    _wait(lambda: is_carried(far=True))  # its kernel said that it left


def test_a_killed_relay_daemon_is_not_missed(chain: Lab) -> None:
    """protocol.md 14.6: its kernel goes on, and the next daemon goes on with it."""
    until_overlays(chain, lambda _a, _b: "fastdp")
    plan, known = chain.plan(), addresses(chain)
    near, far = plan.host("h1").pods[0], plan.host("h5").pods[0]
    command = ["ping", "-n", "-q", "-i", "0.02", "-c", "400", known[far.name]]
    log = site_of(chain, "h1").directory / "ping"
    ping = spawn(kernel.inside(near.namespace, command), {}, log)
    chain.kill(["h3"])
    chain.start(["h3"])
    _wait(lambda: not ping.is_alive)
    assert "400 received, 0% packet loss" in log.read_text(), log.read_text()
    until_overlays(chain, lambda _a, _b: "fastdp")


# ---- trouble between two


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    lab = Lab("kernelpair", quiet=True)
    lab.down()
    lab.up(Order(name="kernelpair", hosts=2, pods=1))
    yield lab
    lab.down()


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("udp dport 6784", "heartbeats-unanswered"),
        ("udp dport 6784 ip length > 1350", "big-frames-lost"),
    ],
    ids=["all", "big ones"],
)
def test_what_eats_the_tunnel_one_way_is_left_and_taken_again(
    pair: Lab, rule: str, reason: str
) -> None:
    """protocol.md 14.5: dropped on arrival at h2 alone; a TCP connection of pods survives both."""
    for here, there in permutations(("h1", "h2")):
        until(pair, here, there, by("fastdp"))
    plan, known = pair.plan(), addresses(pair)
    near, far = plan.host("h1").pods[0], plan.host("h2").pods[0]
    with talking(pair, near.namespace, far.namespace, known[far.name]) as words:
        _wait(lambda: words() > 5)
        with dropped(plan.host("h2"), rule):
            for here, there in permutations(("h1", "h2")):
                row = until(pair, here, there, by("sleeve"))
                left = row["history"][0]
                assert left["not_kernel"] in (reason, "down-at-peer")
                assert left["overlay"] == "sleeve"
            reasons = {links(pair, h)[t]["not_kernel"] for h, t in permutations(("h1", "h2"))}
            assert reason in reasons
            said = words()
            _wait(lambda: words() > said + 20)
        for here, there in permutations(("h1", "h2")):
            row = until(pair, here, there, by("fastdp"))
            back, left, *_ = row["history"]
            assert (back["overlay"], back["reason"]) == ("fastdp", "proven")
            assert back["after"] <= RETURN
            assert left["overlay"] == "sleeve"
        said = words()
        _wait(lambda: words() > said + 20)
    before = frames_by_sleeve(pair)
    assert tcp_rate(near, far, known[far.name], site_of(pair, "h1").directory / "iperf", 1) > 0
    assert frames_by_sleeve(pair) == before, "nothing is left behind the sleeve"
    assert "NOT IN KERNEL" in weaver(site_of(pair, "h1"), "status", "links").stdout


_ECHO = """
import socket
with socket.create_server(("", 5500)) as server:
    stream, _ = server.accept()
    while data := stream.recv(4096):
        stream.sendall(data)
"""
_TALK = """
import socket, sys, time
stream = socket.create_connection((sys.argv[1], 5500), 20)
stream.settimeout(20)
n = 0
while True:
    word = b"%08d" % n + bytes(1000)
    stream.sendall(word)
    got = b""
    while len(got) < len(word):
        part = stream.recv(4096)
        if not part:
            sys.exit("the connection ended")
        got += part
    assert got == word
    n += 1
    print(n, flush=True)
    time.sleep(0.05)
"""


@contextmanager
def talking(lab: Lab, here: str, there: str, address: str) -> Iterator[Callable[[], int]]:
    """One TCP connection between two pods over which words are echoed; how many were, is asked."""
    log = site_of(lab, "h1").directory / "talk"
    log.unlink(missing_ok=True)
    server = spawn(kernel.inside(there, [sys.executable, "-c", _ECHO]), {}, log.with_suffix(".s"))
    try:
        _wait(lambda: ":5500" in kernel.run(*kernel.inside(there, ["ss", "-Hltn"])))
        talker = spawn(kernel.inside(here, [sys.executable, "-c", _TALK, address]), {}, log)
        try:

            def words() -> int:
                assert talker.is_alive, log.read_text()
                lines = log.read_text().split()
                return int(lines[-1]) if lines else 0

            yield words
        finally:
            kill([talker])
    finally:
        kill([server])


# ---- mixed meshes


def test_a_mixed_mesh_hears_everything_once(tmp_path: Path) -> None:
    """protocol.md 14.3: one host without fastdp, one that others reach by IPv6 alone."""
    lab = Lab("kernelmix", quiet=True)
    lab.down()
    lab.up(Order(name="kernelmix", hosts=4, pods=1))
    try:
        plan = lab.plan()
        lab.kill(["h3", "h4"])
        targets6 = tuple(f"[{host.underlay6}]:6783" for host in plan.hosts[:3])
        with (
            started(lab, "--no-fastdp", host="h3"),
            started(lab, targets=targets6, host="h4"),
        ):
            until_overlays(lab, lambda a, b: "sleeve" if "h3" in (a, b) else "fastdp")
            known = addresses(lab)
            until_all_pairs(lab, known, 20)
            assert links(lab, "h3")["h1"]["not_kernel"] == "fastdp-off"
            assert links(lab, "h1")["h3"]["not_kernel"] == "peer-without-fastdp"
            assert_everybody_hears_once(lab, tmp_path)
            shown = weaver(site_of(lab, "h3"), "status").stdout
            assert "sleeve only: fastdp-off" in shown
    finally:
        lab.down()


def test_trust_of_both_ends_and_of_one(tmp_path: Path) -> None:
    """protocol.md 14.1: in clear where both trust; sealed as soon as one does not."""
    lab = Lab("kerneltrust", quiet=True)
    lab.down()
    lab.up(Order(name="kerneltrust", hosts=2, pods=1), "x", [TRUSTED])
    try:
        marker = b"a marker nobody else would send"
        until_overlays(lab, lambda _a, _b: "fastdp")
        assert marker_on_the_wire(lab, marker, tmp_path / "both")
        lab.kill(["h2"])
        with started(lab, f"--password-file={lab.book().password_file}"):
            for here, there, word in (
                ("h1", "h2", "subnet-not-trusted-by-peer"),
                ("h2", "h1", "subnet-not-trusted"),
            ):
                until(lab, here, there, lambda row, word=word: row["not_kernel"] == word)  # type: ignore[misc]  # bound early
                until(lab, here, there, by("sleeve"))
            assert not marker_on_the_wire(lab, marker, tmp_path / "one")
            shown = weaver(site_of(lab, "h1"), "status", "links").stdout
            assert "subnet-not-trusted-by-peer" in shown
    finally:
        lab.down()


def marker_on_the_wire(lab: Lab, marker: bytes, directory: Path) -> bool:
    directory.mkdir()
    plan, known = lab.plan(), addresses(lab)
    near, far = plan.host("h1").pods[0], plan.host("h2").pods[0]
    tap = Tap(plan.host("h1").namespace, "to-h2", directory / "wire.pcap")
    control = Tap(far.namespace, "eth0", directory / "control.pcap")
    with capturing([tap, control]):
        send_marked(near, far, known[far.name], marker, directory)
    assert holds(control, marker), "the search itself does not work"
    assert octets_on(tap) > 100_000, "the capture saw nothing"
    return holds(tap, marker)


def test_reset_leaves_nothing_of_the_kernel_s_path() -> None:
    """Devices, programs and tables go with `weaver reset`, with the daemon alive and dead."""
    lab = Lab("kernelreset", quiet=True)
    lab.down()
    lab.up(Order(name="kernelreset", hosts=2, pods=1))
    try:
        for name, dead in (("h1", False), ("h2", True)):
            site = site_of(lab, name)
            if dead:
                lab.kill([name])
            state = f"--state-dir={site.directory}/state"
            inside = kernel.inside(
                site.host.namespace,
                [sys.executable, "-m", "weaver", "--socket", str(site.socket), "reset"],
            )
            kernel.run(*inside, "--force", *((state,) if dead else ()))
            devices = kernel.run("ip", "-n", site.host.namespace, "-br", "link")
            assert "weave" not in devices, devices
    finally:
        lab.down()
