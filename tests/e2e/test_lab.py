"""Real daemons in real namespaces: what a user of a lab sees, and what survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mesh.errors import OperatorError
from tests.e2e.daemons import BACK_WITHIN, addresses, site_of, until_all_pairs, weaver
from weaver.lab import kernel
from weaver.lab.book import BASE
from weaver.lab.capture import Tap, capturing, holds, octets_on
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.traffic import send_marked

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def chain() -> Iterator[Lab]:
    lab = Lab("chaintest", quiet=True)
    lab.down()
    lab.up(Order(name="chaintest", hosts=3, shape=Shape.CHAIN, pods=1), "x")
    yield lab
    lab.down()
    assert not [n for n in kernel.namespaces() if n.startswith("chaintest")]


def test_the_ends_of_a_chain_talk_and_no_link_carries_it_in_clear(
    chain: Lab, tmp_path: Path
) -> None:
    plan, known = chain.plan(), addresses(chain)
    near, far = plan.host("h1").pods[0], plan.host("h3").pods[0]
    until_all_pairs(chain, known, 5)
    links = json.loads(weaver(site_of(chain, "h1"), "status", "links", "--json").stdout)
    link = next(row for row in links if row["nickname"] == "h3")
    assert (link["state"], link["hops"]) == ("relayed", 2)
    taps = [
        Tap(host.namespace, device, tmp_path / f"{host.name}-{device}.pcap")
        for wire in plan.wires
        for host, device, _ in wire.ends
    ]
    control = Tap(far.namespace, "eth0", tmp_path / "control.pcap")
    marker = b"a marker nobody else would send"
    with capturing([*taps, control]):
        send_marked(near, far, known[far.name], marker, tmp_path)
    assert holds(control, marker), "the search itself does not work"
    assert all(octets_on(tap) > 100_000 for tap in taps), "the captures saw nothing"
    assert [tap.device for tap in taps if holds(tap, marker)] == []


def test_the_relay_does_not_hold_the_payload_in_memory(chain: Lab, tmp_path: Path) -> None:
    plan, known = chain.plan(), addresses(chain)
    near, far = plan.host("h1").pods[0], plan.host("h3").pods[0]
    marker = b"another marker, looked for in memory"
    send_marked(near, far, known[far.name], marker, tmp_path)
    pids = {name: worker_pid(chain, name) for name in ("h1", "h2")}
    assert in_memory(pids["h1"], marker), "the search itself does not work"
    assert not in_memory(pids["h2"], marker)


def worker_pid(lab: Lab, host: str) -> int:
    return int(
        json.loads(weaver(site_of(lab, host), "status", "--json").stdout)["worker"]["pids"][0]
    )


def in_memory(pid: int, marker: bytes) -> bool:
    """Whether any writable memory of a process holds these octets."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            where, rights = line.split()[:2]
            if "rw" not in rights or "[v" in line:
                continue
            low, high = (int(part, 16) for part in where.split("-"))
            try:
                memory.seek(low)
                if marker in memory.read(high - low):
                    return True
            except OSError:
                continue
    return False


@pytest.mark.parametrize("names", [["h1"], ["h2"], ["h3"], ["all"]], ids=lambda n: n[0])
def test_killed_hosts_come_back_as_they_were(chain: Lab, names: list[str]) -> None:
    known = addresses(chain)
    identities = {h: name_of(chain, h) for h in ("h1", "h2", "h3")}
    chain.kill(names)
    began = time.monotonic()
    chain.start(names)
    until_all_pairs(chain, known, BACK_WITHIN)
    assert time.monotonic() - began < BACK_WITHIN
    assert addresses(chain) == known
    assert {h: name_of(chain, h) for h in ("h1", "h2", "h3")} == identities


def name_of(lab: Lab, host: str) -> str:
    return str(json.loads(weaver(site_of(lab, host), "status", "--json").stdout)["us"]["name"])


def test_a_dead_worker_is_started_again_and_the_mesh_says_why(chain: Lab) -> None:
    known, pid = addresses(chain), worker_pid(chain, "h2")
    os.kill(pid, signal.SIGKILL)
    until_all_pairs(chain, known, BACK_WITHIN)
    assert worker_pid(chain, "h2") != pid
    report = json.loads(weaver(site_of(chain, "h2"), "report").stdout)
    assert report["worker"]["restarts"] >= 1
    assert "worker-died" in report["counters"]


def test_devices_deleted_under_the_daemon_are_made_anew(chain: Lab) -> None:
    known, namespace = addresses(chain), chain.plan().host("h2").namespace
    for device in ("weave", "weave-sleeve"):
        kernel.run("ip", "-n", namespace, "link", "del", device)
        until_all_pairs(chain, known, BACK_WITHIN)
    assert "tap-gone" in json.loads(weaver(site_of(chain, "h2"), "report").stdout)["counters"]


def test_a_cut_wire_is_noticed_and_healed(chain: Lab) -> None:
    known = addresses(chain)
    chain.cut("h1", "h2")
    deadline = time.monotonic() + 10
    while link_state(chain, "h2") != "down":
        assert time.monotonic() < deadline, link_state(chain, "h2")
        time.sleep(0.2)
    chain.heal()
    until_all_pairs(chain, known, 30.0)


def link_state(lab: Lab, peer: str) -> str:
    links = json.loads(weaver(site_of(lab, "h1"), "status", "links", "--json").stdout)
    return next((str(row["state"]) for row in links if row["nickname"] == peer), "down")


def test_commands_and_exit_codes(chain: Lab) -> None:
    assert "ready" in weaver(site_of(chain, "h1"), "status").stdout
    for part in ("peers", "connections", "targets", "ipam", "links", "routes"):
        assert weaver(site_of(chain, "h1"), "status", part).returncode == 0
        json.loads(weaver(site_of(chain, "h1"), "status", part, "--json").stdout)
    assert weaver(site_of(chain, "h1"), "detach", "nobody").returncode == 4
    assert weaver(site_of(chain, "h1"), "connect", "not an address").returncode == 1
    assert weaver(site_of(chain, "h1"), "ipam", "reclaim", "h2").returncode == 1
    listed = json.loads(weaver(site_of(chain, "h1"), "ps", "--json").stdout)
    assert len(listed) == 1
    exposed = weaver(site_of(chain, "h2"), "expose").stdout.strip()
    pod = chain.plan().host("h1").pods[0]
    ping = ["ping", "-n", "-c", "1", "-W", "3", exposed.partition("/")[0]]
    assert kernel.run(*kernel.inside(pod.namespace, ping))
    assert weaver(site_of(chain, "h2"), "hide").returncode == 0


def test_no_daemon_is_exit_code_3() -> None:
    command = [sys.executable, "-m", "weaver", "--socket", "/nonexistent.sock", "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1


def test_reset_hands_the_space_over_and_leaves_nothing(tmp_path: Path) -> None:
    lab = Lab("resettest", quiet=True)
    lab.down()
    try:
        lab.up(Order(name="resettest", hosts=2, shape=Shape.MESH, pods=1), "x")
        site = lab.site(lab.plan().host("h2"))
        state = json.loads(weaver(site_of(lab, "h2"), "status", "--json").stdout)
        done = weaver(site_of(lab, "h2"), "reset")
        assert done.returncode == 0, done.stderr
        assert "handed over" in done.stdout
        assert (
            not site.socket.exists() or "no weaver" in weaver(site_of(lab, "h2"), "status").stderr
        )
        host = lab.plan().host("h2")
        shown = kernel.run("ip", "-n", host.namespace, "-o", "link")
        assert "weave" not in shown
        ipam = json.loads(weaver(site_of(lab, "h1"), "status", "ipam", "--json").stdout)
        assert [share["nickname"] for share in ipam["shares"]] == ["h1"]
        assert state["us"]["name"]
    finally:
        lab.down()


def test_demo_ends_well_and_leaves_nothing() -> None:
    command = [sys.executable, "-m", "weaver", "lab", "demo", "--name", "demotest"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6" in done.stdout
    assert not [n for n in kernel.namespaces() if n.startswith("demotest")]


@pytest.mark.parametrize("at", ["namespaces for", "daemons ready", "pods ping in all pairs"])
def test_ctrl_c_and_again_leaves_nothing(at: str) -> None:
    """As a terminal sends it: to the whole process group, and people press it more than once."""
    command = [sys.executable, "-m", "weaver", "lab", "demo", "--name", "ctrlctest"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as demo:
        assert demo.stdout is not None
        assert any(at in line for line in demo.stdout), "the demo ended before"
        deadline = time.monotonic() + 60
        while demo.poll() is None:
            assert time.monotonic() < deadline
            os.killpg(demo.pid, signal.SIGINT)
            time.sleep(0.03)  # between two presses; the wait is for the end
        assert demo.returncode in (130, -signal.SIGINT)
    assert not [n for n in kernel.namespaces() if n.startswith("ctrlctest")]
    assert not (BASE / "ctrlctest").exists()
    assert not processes_naming("weaver-lab/ctrlctest")


def processes_naming(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_exec_is_the_command_itself(chain: Lab) -> None:
    """Its exit code, and the signals as a shell would have set them."""
    command = [sys.executable, "-m", "weaver", "lab", "exec", "--name", chain.name, "h1-p1", "--"]
    done = subprocess.run([*command, "sh", "-c", "exit 42"], check=False)
    assert done.returncode == 42
    piped = [*command, "sh", "-c", "yes | head -n 1"]
    done_piped = subprocess.run(piped, capture_output=True, text=True, check=False)
    assert (done_piped.stdout, done_piped.stderr) == ("y\n", "")


def test_start_all_starts_those_that_do_not_run(chain: Lab) -> None:
    assert chain.start(["all"]) == []
    with pytest.raises(OperatorError, match="runs already"):
        chain.start(["h2"])
    chain.kill(["h2"])
    assert chain.start(["all"]) == ["h2"]


def test_a_namespace_that_somebody_made_is_left_alone() -> None:
    kernel.run("ip", "netns", "add", "takentest-h1")
    try:
        lab = Lab("takentest", quiet=True)
        with pytest.raises(kernel.KernelError, match="exists already"):
            lab.up(Order(name="takentest", hosts=2, shape=Shape.MESH, pods=0))
        assert "takentest-h1" in kernel.namespaces()
    finally:
        lab.down()
    assert "takentest-h1" not in kernel.namespaces()


def test_a_narrow_underlay_stalls_nothing(tmp_path: Path) -> None:
    """protocol.md 10.6: TCP, and the largest packet of a pod, cross an underlay of 1,280 octets:
    the MTU of pods is not less, so that they have IPv6."""
    lab = Lab("narrowtest", quiet=True)
    lab.down()
    try:
        lab.up(Order(name="narrowtest", hosts=2, shape=Shape.CHAIN, pods=1, mtu=1280), "x")
        near, far = (host.pods[0] for host in lab.plan().hosts)
        send_marked(near, far, addresses(lab)[far.name], b"0123456789abcdef", tmp_path)
        ping = [
            "ping",
            "-n",
            "-c",
            "1",
            "-W",
            "3",
            "-M",
            "do",
            "-s",
            "1252",
            addresses(lab)[far.name],
        ]
        assert kernel.run(*kernel.inside(near.namespace, ping))
    finally:
        lab.down()
