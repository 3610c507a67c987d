"""The fast path under real traffic, under killing and replacing, and where it cannot be had.

What it does to single frames is in ``tests/datapath_rules.py``.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench.kernelnodes import KernelNode, KernelRow, row
from bench.nodes import inside, ip, run_in
from mesh.drivers.fastdp import bpf, devices, layout
from mesh.drivers.fastdp.datapath import FastDatapath
from mesh.drivers.fastdp.devices import Names
from mesh.drivers.fastdp.rtnl import EGRESS, INGRESS, Rtnl
from mesh.drivers.tap import open_tap
from mesh.link.datapath import Absence, Answer, Config, DatapathError, Reason, Takeover, correct
from mesh.names import ShortID
from tests.netns.traffic import eventually

pytestmark = pytest.mark.netns

TAG = f"fd{os.getpid() % 1000}"
LOST = re.compile(r"(\d+) packets transmitted, (\d+) received")


@pytest.fixture
def pair() -> Iterator[KernelRow]:
    world = row(TAG, 2)
    yield world
    world.close()


@pytest.fixture
def alone() -> Iterator[KernelNode]:
    """One host, whose fast path was not opened."""
    node = KernelNode(TAG, 1)
    yield node
    node.remove()
    node.delete()


def ping(a: KernelNode, to: str, *args: str) -> tuple[int, str]:
    """How many answers came, and what was said."""
    said = run_in(a.pod, "ping", "-i", "0.05", "-W", "1", *args, to, check=False)
    found = LOST.search(said)
    return (int(found[2]) if found else 0), said


def transfer(a: KernelNode, b: KernelNode, octets: int, address: str) -> None:
    """One TCP stream of random octets, all of which must come as they were."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = inside(b.pod, lambda: socket.socket(family, socket.SOCK_STREAM))
    server.bind((address, 0))
    server.listen(1)
    client = inside(a.pod, lambda: socket.socket(family, socket.SOCK_STREAM))
    client.settimeout(20)
    client.connect(server.getsockname()[:2])
    conn, _ = server.accept()
    conn.settimeout(20)
    block = os.urandom(1 << 16)
    sent, got = 0, bytearray()
    client.setblocking(False)
    while len(got) < octets:
        if sent < octets:
            try:
                at = sent % len(block)
                sent += client.send(block[at : at + octets - sent])
            except BlockingIOError:
                pass
        with_data = conn.recv(1 << 20) if sent > len(got) else b""
        got += with_data
    assert bytes(got) == (block * (octets // len(block) + 1))[:octets]
    for sock in (server, client, conn):
        sock.close()


# --- real traffic


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_over_three_hops_by_both_families(version: int) -> None:
    world = row(TAG, 4, version=version, pod_mtu=1430)
    try:
        a, d = world.nodes[0], world.nodes[3]
        for address in (d.address, d.address6):
            assert ping(a, address, "-c", "3")[0] == 3
            transfer(a, d, 8_000_000, address)
        relay = world.nodes[1].kernel.counters()
        assert relay.peers[ShortID(4)].relayed_octets > 16_000_000
        # A super-frame is counted as the packets it stands for.
        assert relay.peers[ShortID(4)].relayed_frames > 16_000_000 // 1430
        assert all(node.kernel.counters().drops == {} for node in world.nodes)
    finally:
        world.close()


@pytest.mark.parametrize("version", [4, 6])
def test_pods_learn_the_mtu_from_the_kernel(version: int) -> None:
    """fastdp.md 11: from their own host's device, and from a relay whose next cable is narrower."""
    cost = 50 if version == 4 else 70
    world = row(TAG, 3, version=version, mtus=(1500, 1400), pod_mtu=1500)
    try:
        a, b, c = world.nodes
        wide, narrow = 1500 - cost, 1400 - cost
        for to, size, mtu in ((b, 1500, wide), (c, wide, narrow)):
            for address, header in ((to.address, 28), (to.address6, 48)):
                ping(a, address, "-c", "1")
                _, said = ping(a, address, "-c", "3", "-M", "do", "-s", str(size - header))
                assert re.search(rf"mtu ?[=:] ?{mtu}\b", said), said
                fits = ("-c", "2", "-M", "do", "-s", str(mtu - header))
                assert ping(a, address, *fits)[0] == 2
                transfer(a, to, 3_000_000, address)
        assert all(node.kernel.counters().drops == {} for node in world.nodes)
        # Who lets its packets be cut loses none, but over IPv6: there the kernel cuts nothing.
        if version == 4:
            assert ping(a, c.address, "-c", "3", "-M", "dont", "-s", "1472")[0] == 3
    finally:
        world.close()


@pytest.mark.parametrize("version", [4, 6])
def test_a_control_frame_is_never_cut(version: int) -> None:
    """fastdp.md 6: what the path does not carry whole does not come, so its size is found out."""
    cost = 50 if version == 4 else 70
    world = row(TAG, 2, version=version)
    try:
        a, b = (node.kernel for node in world.nodes)
        fits = 1500 - cost
        for size in (fits + 1, fits, 4000, 60):
            a.send_control(ShortID(2), size.to_bytes(2, "big") * (size // 2) + bytes(size % 2))
        heard: list[int] = []

        def both_came() -> bool:
            came = (upcall for upcall in b.receive() if upcall.reason is Reason.CONTROL)
            heard.extend(len(upcall.frame) for upcall in came)
            return 60 in heard

        eventually(both_came)
        assert heard == [fits, 60]
    finally:
        world.close()


def test_jumbo_underlay() -> None:
    world = row(TAG, 2, mtus=(9000,), pod_mtu=8950)
    try:
        a, b = world.nodes
        assert ping(a, b.address, "-c", "2", "-M", "do", "-s", str(8950 - 28))[0] == 2
        transfer(a, b, 8_000_000, b.address)
    finally:
        world.close()


def test_neighbours_of_both_families_are_answered_here(pair: KernelRow) -> None:
    """10: the pod believes the answers, and the far pod is asked nothing."""
    a, b = pair.nodes
    answer = Answer(bytes((2, 0, 0, 0, 0, 2)), ShortID(2))
    for address in (b.address, b.address6):
        a.kernel.set_answer(address, answer)
    asked = b.kernel.counters().peers.get(ShortID(1))
    for address in (b.address, b.address6):
        assert ping(a, address, "-c", "1")[0] == 1
    assert a.kernel.counters().answered == 2
    after = b.kernel.counters().peers[ShortID(1)]
    assert after.rx_frames - (asked.rx_frames if asked else 0) <= 4  # pings; b's own questions
    said = run_in(a.pod, "ip", "neigh")
    assert said.count("02:00:00:00:00:02") >= 2


# --- life


def held_and_killed(node: KernelNode) -> str:
    """What the next daemon found, before it was killed in its turn."""
    command = ["ip", "netns", "exec", node.namespace, sys.executable]
    holder = subprocess.Popen(
        [*command, "-m", "tests.netns.fastdp_holder"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        return holder.stdout.readline().strip()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_killed_and_replaced_under_a_flood_nothing_is_lost(pair: KernelRow) -> None:
    """7: `make soak-fastdp` does this a hundred times."""
    a, b = pair.nodes
    assert ping(a, b.address, "-c", "1")[0] == 1
    for node in pair.nodes:
        node.let_go()
    flood = subprocess.Popen(
        ["ip", "netns", "exec", a.pod, "ping", "-f", "-q", "-w", "60", "-c", "40000", b.address],
        stdout=subprocess.PIPE,
        text=True,
    )
    rounds = 0
    try:
        while flood.poll() is None and rounds < 8:
            for node in pair.nodes:
                assert held_and_killed(node) == Takeover.TAKEN
            rounds += 1
    finally:
        flood.send_signal(signal.SIGINT)
        said = flood.communicate(timeout=70)[0]
    found = LOST.search(said)
    assert found is not None, said
    assert rounds >= 2
    assert int(found[1]) > 500
    assert found[1] == found[2], said
    b.open()
    assert b.kernel.takeover is Takeover.TAKEN
    assert correct(b.kernel, pair.tables(2)) == 0
    assert all(n == 0 for n in b.kernel.counters().drops.values())


def test_programs_are_replaced_many_times_under_a_flood(pair: KernelRow) -> None:
    a, b = pair.nodes
    flood = subprocess.Popen(
        ["ip", "netns", "exec", a.pod, "ping", "-f", "-q", "-w", "60", "-c", "20000", b.address],
        stdout=subprocess.PIPE,
        text=True,
    )
    replaced = 0
    try:
        while flood.poll() is None:
            for node in pair.nodes:
                node.kernel.start()
            replaced += 1
    finally:
        flood.send_signal(signal.SIGINT)
        found = LOST.search(flood.communicate(timeout=70)[0])
    assert found is not None
    assert replaced > 20
    assert found[1] == found[2]


def test_a_second_daemon_is_refused_and_touches_nothing(pair: KernelRow) -> None:
    a, b = pair.nodes
    before = a.kernel.tables()
    with pytest.raises(DatapathError) as refusal:
        inside(a.namespace, FastDatapath)
    assert refusal.value.absence is Absence.BUSY
    assert a.kernel.tables() == before
    assert a.kernel.check() == []
    assert ping(a, b.address, "-c", "2")[0] == 2


def test_what_is_deleted_under_us_comes_back_with_what_it_knew(pair: KernelRow) -> None:
    a, b = pair.nodes
    assert ping(a, b.address, "-c", "2")[0] == 2
    learned = a.kernel.learned()
    ip("-n", a.namespace, "link", "del", "weave-fastdp")
    done = inside(a.namespace, a.kernel.check)
    assert "weave-fastdp made anew" in done
    assert a.kernel.learned() == learned
    assert ping(a, b.address, "-c", "2")[0] == 2
    ip("-n", a.namespace, "link", "del", "weave-upcall")
    assert inside(a.namespace, a.kernel.check) == ["weave-upcall made anew"]
    a.kernel.send_control(ShortID(2), b"still heard")
    eventually(lambda: any(up.reason is Reason.CONTROL for up in b.kernel.receive()))
    run_in(a.namespace, "tc", "qdisc", "del", "dev", "weave-fastdp", "clsact")
    assert a.kernel.check() == ["programs put on weave-fastdp again"]
    ip("-n", a.namespace, "link", "set", "weave-fastdp", "nomaster", "down")
    done = a.kernel.check()
    assert done == ["weave-fastdp made a port of weave", "weave-fastdp set up"]
    assert ping(a, b.address, "-c", "2")[0] == 2
    assert a.kernel.check() == []


def test_the_bridge_may_go_and_come(pair: KernelRow) -> None:
    a, b = pair.nodes
    ip("-n", a.namespace, "link", "del", "weave")
    for _ in range(2):
        with pytest.raises(DatapathError) as refusal:
            a.kernel.check()
        assert refusal.value.absence is Absence.NO_BRIDGE
    a.add_bridge()
    ip("-n", a.namespace, "link", "set", "pod", "master", "weave")
    assert a.kernel.check() == ["weave-fastdp made a port of weave"]
    assert ping(a, b.address, "-c", "2")[0] == 2


def test_what_was_learned_is_forgotten_with_age(pair: KernelRow) -> None:
    a, b = pair.nodes
    assert ping(a, b.address, "-c", "1")[0] == 1
    stranger = bytes.fromhex("020000000099")
    a.kernel.check()
    now = int(time.monotonic())
    table = a.kernel._tables["learned"]
    for mac, age in ((stranger, 610), (bytes.fromhex("020000000098"), 500)):
        entry = layout.Learned(peer=2, seen=max(0, now - age))
        table.set(layout.mac_key(mac), bytes(entry))
    a.kernel.check()
    assert stranger in a.kernel.learned(), "it was looked through a moment ago"
    a.kernel._aged_at -= 61
    a.kernel.check()
    learned = a.kernel.learned()
    assert stranger not in learned or now < 610
    assert bytes.fromhex("020000000098") in learned
    assert bytes((2, 0, 0, 0, 0, 2)) in learned


def test_removing_is_idempotent(pair: KernelRow) -> None:
    a = pair.nodes[0]
    for _ in range(2):
        inside(a.namespace, a.kernel.remove)
        assert "weave-fastdp" not in run_in(a.namespace, "ip", "-br", "link")
    with pytest.raises(DatapathError) as refusal:
        a.kernel.tables()
    assert refusal.value.absence is Absence.GONE
    a.open()
    assert a.kernel.takeover is Takeover.FRESH


def test_reset_leaves_nothing(pair: KernelRow) -> None:
    a = pair.nodes[0]
    a.let_go()
    filters = inside(a.namespace, _programs)
    assert filters
    assert inside(a.namespace, devices.remove)
    assert not inside(a.namespace, devices.remove)  # nothing any more
    names = run_in(a.namespace, "ip", "-br", "link")
    assert "weave-fastdp" not in names
    assert "weave-upcall" not in names
    for program in filters:  # the kernel frees them a moment later
        eventually(lambda program=program: not _is_there(program))  # type: ignore[misc]


def _programs() -> set[int]:
    rtnl = Rtnl()
    try:
        there = rtnl.device("weave-fastdp")
        assert there is not None
        return {f.program for f in rtnl.programs(there.index)}
    finally:
        rtnl.close()


def _is_there(program: int) -> bool:
    try:
        bpf.maps_of(program)
    except FileNotFoundError:
        return False
    return True


def test_tables_of_another_layout_are_replaced_with_their_programs(pair: KernelRow) -> None:
    a, b = pair.nodes
    assert ping(a, b.address, "-c", "1")[0] == 1
    config = layout.Config.from_buffer_copy(a.kernel._tables["config"].get(layout.key(0)) or b"")
    config.layout = 99
    a.kernel._tables["config"].set(layout.key(0), bytes(config))
    a.let_go()
    a.open()
    assert a.kernel.takeover == "other-layout"
    assert ping(a, b.address, "-c", "2")[0] == 2  # the old ones work on
    pair.tell(a)
    assert ping(a, b.address, "-c", "2")[0] == 2
    assert _programs_of(a, "to_mesh") == {a.kernel._loaded().id_of("to_mesh")}
    a.let_go()
    a.open()
    assert a.kernel.takeover is Takeover.TAKEN


def test_a_longer_chain_of_another_release_is_taken_off(pair: KernelRow) -> None:
    """Else it would keep its tables alive, to be found by the next daemon."""
    a = pair.nodes[0]
    rtnl = inside(a.namespace, Rtnl)
    device = rtnl.device("weave-fastdp")
    assert device is not None
    before = {(f.hook, f.priority) for f in rtnl.programs(device.index)}
    copies = a.kernel._loaded().fds["copies"]
    for hook in (INGRESS, EGRESS):
        rtnl.set_program(device.index, hook, 20, copies, "copies")
    assert len(rtnl.programs(device.index)) == len(before) + 2
    a.kernel.start()
    assert {(f.hook, f.priority) for f in rtnl.programs(device.index)} == before
    rtnl.close()


def test_the_sleeve_s_device_may_lose_its_program(pair: KernelRow) -> None:
    a = pair.nodes[0]
    fd = inside(a.namespace, lambda: open_tap("sleeve0"))
    ip("-n", a.namespace, "link", "set", "sleeve0", "up")
    a.kernel.set_sleeve("sleeve0")
    assert a.kernel.check() == []
    run_in(a.namespace, "tc", "qdisc", "del", "dev", "sleeve0", "clsact")
    assert a.kernel.check() == ["programs put on sleeve0 again"]
    os.close(fd)
    assert a.kernel.check() == []  # gone with its worker; the next one says so
    with pytest.raises(DatapathError) as refusal:
        a.kernel.set_sleeve("sleeve0")
    assert refusal.value.absence is Absence.GONE


def _programs_of(node: KernelNode, name: str) -> set[int]:
    rtnl = inside(node.namespace, Rtnl)
    try:
        there = rtnl.device("weave-fastdp")
        assert there is not None
        return {f.program for f in rtnl.programs(there.index) if f.name == name}
    finally:
        rtnl.close()


# --- where it cannot be had


def refused(node: KernelNode) -> DatapathError:
    def try_it() -> None:
        node.open()
        node.kernel.start()

    with pytest.raises(DatapathError) as refusal:
        try_it()
    return refusal.value


def test_a_foreign_device_is_left_alone(alone: KernelNode) -> None:
    kinds = ["bridge", "vxlan id 7 dstport 6784", "vxlan external dstport 8472"]
    for kind in map(str.split, kinds):
        ip("-n", alone.namespace, "link", "add", "weave-fastdp", "type", *kind)
        error = refused(alone)
        assert error.absence is Absence.FOREIGN_DEVICE
        with pytest.raises(DatapathError):
            inside(alone.namespace, devices.remove)
        ip("-n", alone.namespace, "link", "del", "weave-fastdp")  # it was there
    alone.open()


def test_a_taken_port_says_by_whom(alone: KernelNode) -> None:
    other = ("link", "add", "flannel.1", "type", "vxlan", "external", "dstport", "6784")
    ip("-n", alone.namespace, *other)
    ip("-n", alone.namespace, "link", "set", "flannel.1", "up")
    error = refused(alone)
    assert error.absence is Absence.PORT_TAKEN
    assert "flannel.1" in str(error)
    alone.remove()
    ip("-n", alone.namespace, "link", "del", "flannel.1")
    squatter = inside(alone.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    squatter.bind(("0.0.0.0", 6784))
    error = refused(alone)
    assert error.absence is Absence.PORT_TAKEN
    assert "another program" in str(error)
    squatter.close()
    alone.kernel.start()
    assert alone.kernel.check() == []


def test_without_a_bridge(alone: KernelNode) -> None:
    ip("-n", alone.namespace, "link", "del", "weave")
    assert refused(alone).absence is Absence.NO_BRIDGE


@pytest.mark.parametrize(
    ("dropped", "word"),
    [
        ("cap_net_admin", Absence.NO_PRIVILEGE),
        ("cap_bpf,cap_sys_admin", Absence.NO_PRIVILEGE),
        pytest.param(
            "cap_sys_admin,cap_perfmon",
            None,
            marks=pytest.mark.skipif(
                tuple(map(int, os.uname().release.split(".")[:2])) < (6, 18),
                reason="older verifiers want CAP_PERFMON besides",
            ),
        ),
    ],
)
def test_privileges(alone: KernelNode, dropped: str, word: Absence | None) -> None:
    """9: CAP_NET_ADMIN and CAP_BPF are enough; without one of them there is a word for it."""
    code = (
        "from mesh.drivers.fastdp.datapath import FastDatapath\n"
        "from mesh.link.datapath import DatapathError\n"
        "try:\n    d = FastDatapath(); d.start(); print('ok', d.check())\n"
        "except DatapathError as err:\n    print(err.reason, '|', err)\n"
    )
    said = run_in(
        alone.namespace,
        *("setpriv", "--bounding-set", ",".join(f"-{c[4:]}" for c in dropped.split(","))),
        *("--inh-caps", "-all", sys.executable, "-c", code),
    )
    assert said.split()[0] == (word or "ok"), said


def test_an_object_that_is_missing_or_damaged(
    alone: KernelNode, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("mesh.drivers.fastdp.objects.read.__defaults__", (tmp_path,))
    assert refused(alone).absence is Absence.NO_OBJECT


def test_a_bad_address_is_a_bug_and_a_full_table_is_not(alone: KernelNode) -> None:
    alone.open()
    alone.kernel.configure(Config(ShortID(1), 1500))
    with pytest.raises(ValueError, match="not-an-address"):
        alone.kernel.set_neighbour(ShortID(2), "not-an-address")
    table = alone.kernel._tables["trees"]
    entry = bytes(table.spec.value_size)
    for origin in range(table.spec.entries):
        table.set(layout.key(origin), entry)
    with pytest.raises(DatapathError) as refusal:
        alone.kernel._set("trees", layout.key(9999), entry)
    assert refusal.value.absence is Absence.TABLE_FULL
    alone.let_go()
    alone.open()


def test_other_names_do_not_meet(alone: KernelNode) -> None:
    """Two fast paths of two meshes on one host, each with its own devices and port."""
    other = Names(bridge="weave", device="other-fastdp", upcall="other-upcall", port=6799)
    alone.open()
    second = inside(alone.namespace, lambda: FastDatapath(other))
    assert second.takeover is Takeover.FRESH
    inside(alone.namespace, second.remove)
    assert alone.kernel.takeover is Takeover.FRESH
