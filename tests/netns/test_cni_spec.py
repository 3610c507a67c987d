"""The CNI specification, checked on the installed executables, a real server and a real kernel."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.cni_host import CniHost, Json, Pod, address, conf, host, ip, wait_for

pytestmark = pytest.mark.netns

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
WAITS = ("7 ", "45 ", "271 ")
"""poll, recvfrom and ppoll, as /proc/PID/syscall numbers them on x86-64."""

REQUIRED = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"


@pytest.fixture(scope="module")
def shared() -> Iterator[CniHost]:
    """One host for the tests that leave it as they found it."""
    with host() as made:
        yield made


@pytest.fixture
def alone() -> Iterator[CniHost]:
    """A host of its own, for tests that kill it."""
    with host() as made:
        yield made


@pytest.mark.parametrize("version", VERSIONS)
def test_c1_result_is_in_the_version_of_the_configuration(shared: CniHost, version: str) -> None:
    pod = shared.pod(f"c1-{version}")
    result = pod.add(conf(version))
    assert result["cniVersion"] == version
    assert [ip.get("version") for ip in result["ips"]] == (
        ["4"] if version.startswith("0.") else [None]
    )
    assert ("mtu" in result["interfaces"][1]) == (version == "1.1.0")
    pod.delete(conf(version))


def test_c2_result_tells_what_the_kernel_has(shared: CniHost) -> None:
    pod = shared.pod("c2")
    result = pod.add()
    outside, inside = result["interfaces"]
    assert "sandbox" not in outside
    assert outside["name"] in shared.veths()
    assert re.fullmatch(r"vw[0-9a-f]{13}", outside["name"])
    assert (inside["name"], inside["sandbox"]) == ("eth0", pod.netns)
    assert [entry["interface"] for entry in result["ips"]] == [1]
    assert re.fullmatch(r"10\.\d+\.\d+\.\d+/12", result["ips"][0]["address"])
    assert result["dns"] == {}
    link = pod.link()
    assert link is not None
    assert link["address"] == inside["mac"]
    assert link["mtu"] == 1420
    assert address(result) in [a["local"] for a in link["addr_info"]]
    host_end = json.loads(ip("-n", shared.namespace, "-j", "link", "show", outside["name"]))[0]
    assert (host_end["master"], host_end["mtu"], host_end["address"]) == (
        "weave",
        65000,
        outside["mac"],
    )
    pod.delete()


def test_c2_mtu_mac_and_address_are_as_asked(shared: CniHost) -> None:
    pod = shared.pod("c2-asked")
    runtime = {"ips": ["10.33.0.9/12"], "mac": "02:11:22:33:44:55"}
    result = pod.add(conf(mtu=1300, runtimeConfig=runtime), CNI_ARGS="IP=10.33.0.8")
    link = pod.link()
    assert link is not None
    assert (link["mtu"], link["address"]) == (1300, "02:11:22:33:44:55")
    assert address(result) == "10.33.0.9"
    pod.delete()
    again = pod.add(CNI_ARGS="IgnoreUnknown=1;FOO=1;IP=10.33.0.8;MAC=02:11:22:33:44:56")
    assert (address(again), again["interfaces"][1]["mac"]) == ("10.33.0.8", "02:11:22:33:44:56")
    pod.delete()


def test_c3_interface_that_exists_is_an_error_and_nothing_is_left(shared: CniHost) -> None:
    pod = shared.pod("c3")
    ip("-n", pod.namespace, "link", "add", "eth0", "type", "bridge")
    veths, leases = shared.veths(), shared.leases()
    assert "eth0 exists" in pod.call("ADD").error()["msg"]
    assert (shared.veths(), shared.leases()) == (veths, leases)
    ip("-n", pod.namespace, "link", "del", "eth0")
    pod.add()
    pod.delete()


def test_c3_second_add_is_an_error_and_harms_nothing(shared: CniHost) -> None:
    pod = shared.pod("c3-twice")
    first = pod.add()
    pod.call("ADD").error()
    elsewhere = shared.pod("c3-elsewhere")
    pod.call("ADD", CNI_NETNS=elsewhere.netns).error()
    pod.check(first).nothing()
    assert shared.leases()["c3-twice,eth0"] == address(first)
    pod.delete()


def test_c4_failures_roll_back(shared: CniHost) -> None:
    pod = shared.pod("c4")
    veths, leases = shared.veths(), shared.leases()
    broken = conf(ipam={"type": "weaver-ipam", "routes": [{"dst": "9.9.9.0/24", "gw": "8.8.8.8"}]})
    said = pod.call("ADD", broken).error(100)  # the kernel cannot reach such a gateway
    assert "9.9.9.0/24" in said["msg"]
    assert (shared.veths(), shared.leases(), pod.link()) == (veths, leases, None)
    pod.add()
    pod.delete()


def test_c4_delegated_address_is_given_back(shared: CniHost) -> None:
    pod = shared.pod("c4-delegated")
    ip("-n", pod.namespace, "link", "add", "eth0", "type", "bridge")
    config = _host_local(shared, "10.40.1.0/24")
    pod.call("ADD", config).error(104)
    assert _host_local_leases(shared) == set()
    ip("-n", pod.namespace, "link", "del", "eth0")
    assert address(pod.add(config)).startswith("10.40.1.")
    assert len(_host_local_leases(shared)) == 1
    pod.call("ADD", config).error()  # again: the first one keeps its address
    assert len(_host_local_leases(shared)) == 1
    pod.delete(config)
    assert _host_local_leases(shared) == set()


def test_c5_del_is_idempotent(shared: CniHost) -> None:
    pod = shared.pod("c5")
    result = pod.add()
    pod.delete(conf(prevResult=result))
    assert (pod.link(), "c5,eth0" in shared.leases()) == (None, False)
    for more in ({}, {"CNI_NETNS": ""}, {"drop": ("CNI_NETNS",)}, {"CNI_CONTAINERID": "nobody"}):
        pod.delete(None, **more)


@pytest.mark.parametrize("netns", ["", "/run/netns/gone", "/proc/999999999/ns/net"])
def test_c5_del_without_the_namespace_frees_the_address(shared: CniHost, netns: str) -> None:
    pod = shared.pod("c5-gone")
    pod.add()
    assert "c5-gone,eth0" in shared.leases()
    pod.delete(CNI_NETNS=netns)
    assert "c5-gone,eth0" not in shared.leases()
    assert pod.link() is None


def test_c5_del_after_the_namespace_died(shared: CniHost) -> None:
    pod = shared.pod("c5-dead")
    name = pod.add()["interfaces"][0]["name"]
    ip("netns", "del", pod.namespace)
    wait_for(lambda: name not in shared.veths(), shared.veths)
    pod.delete()
    assert "c5-dead,eth0" not in shared.leases()


def test_c6_del_releases_after_the_daemon_was_killed(alone: CniHost) -> None:
    pod = alone.pod("c6")
    result = pod.add()
    alone.kill()
    alone.start()
    pod.check(result).nothing()
    pod.delete()
    assert (alone.leases(), alone.veths()) == ({}, set())


def test_c6_without_the_daemon_add_says_try_again_and_status_unavailable(alone: CniHost) -> None:
    pod = alone.pod("c6-down")
    alone.stop()
    said = pod.call("ADD", conf("0.4.0")).error(11)
    assert said["cniVersion"] == "0.4.0"
    alone.call("STATUS", conf("1.1.0")).error(50)
    alone.start()
    pod.add()
    pod.delete()


def test_c6_del_without_the_daemon_is_carried_out_at_its_start(alone: CniHost) -> None:
    kept, gone = alone.pod("c6-kept"), alone.pod("c6-gone")
    kept.add()
    gone.add()
    alone.kill()
    gone.delete()  # its namespace lives on: only the record of this call tells that it is over
    assert gone.link() is not None
    alone.start()
    wait_for(lambda: "c6-gone,eth0" not in alone.leases(), alone.leases)
    wait_for(lambda: gone.link() is None, gone.link)
    assert (kept.link() is not None, "c6-kept,eth0" in alone.leases()) == (True, True)
    left = alone.directory / "run" / "cni-del"
    wait_for(lambda: not list(left.iterdir()), lambda: list(left.iterdir()))


def test_c6_pod_that_died_with_the_daemon_is_reclaimed(alone: CniHost) -> None:
    pod, other = alone.pod("c6-reclaimed"), alone.pod("c6-other")
    name = pod.add()["interfaces"][0]["name"]
    other.add()
    alone.kill()
    ip("netns", "del", pod.namespace)
    wait_for(lambda: name not in alone.veths(), alone.veths)
    alone.start()
    assert set(alone.leases()) == {"c6-other,eth0"}


def test_c6_daemon_that_is_not_ready(shared: CniHost) -> None:
    pod = shared.pod("c6-unready")
    with shared.steered("not-ready", "starting"):
        assert pod.call("ADD").error(11)["details"] == "starting"
        shared.call("STATUS", conf("1.1.0")).error(50)
    shared.call("STATUS", conf("1.1.0")).nothing()
    with shared.steered("cannot-allocate", "no-quorum"):  # which an ADD waits for
        assert shared.call("STATUS", conf("1.1.0")).error(50)["details"] == "no-quorum"
        elsewhere = _host_local(shared, "10.40.9.0/24")  # whose addresses are not the mesh's
        said = shared.call("STATUS", elsewhere | {"cniVersion": "1.1.0"})
        assert "no-quorum" not in str(said.stdout)
    pod.add()
    pod.delete()


BREAKAGES = {
    "address": ["addr", "flush", "dev", "eth0"],
    "link": ["link", "del", "eth0"],
    "down": ["link", "set", "eth0", "down"],
    "route": ["route", "del", "192.0.2.0/24"],
    "mac": ["link", "set", "eth0", "address", "02:99:99:99:99:99"],
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_c7_check_sees_what_is_broken(shared: CniHost, what: str) -> None:
    pod = shared.pod(f"c7-{what}")
    config = conf(
        ipam={"type": "weaver-ipam", "routes": [{"dst": "192.0.2.0/24", "gw": "10.32.0.9"}]}
    )
    result = pod.add(config)
    pod.check(result, config).nothing()
    ip("-n", pod.namespace, *BREAKAGES[what])
    pod.check(result, config).error(102)
    pod.delete(config)
    pod.check(result, config).error(102)


def test_c7_check_holds_prev_result_to_the_truth(shared: CniHost) -> None:
    pod = shared.pod("c7-prev")
    result = pod.add()
    false = json.loads(json.dumps(result))
    false["ips"][0]["address"] = "10.47.0.1/12"
    pod.check(false).error(102)
    false = json.loads(json.dumps(result))
    false["interfaces"][1]["sandbox"] = "/run/netns/other"
    pod.check(false).error(102)
    pod.call("CHECK").error(7)  # no prevResult at all
    pod.check(result).nothing()
    pod.delete()


def test_c7_check_is_not_in_version_0_3_1(shared: CniHost) -> None:
    pod = shared.pod("c7-old")
    result = pod.add(conf("0.3.1"))
    said = pod.check(result, conf("0.3.1")).error(1)
    assert said["msg"] == "config version does not allow CHECK"
    pod.delete(conf("0.3.1"))


def test_c7_check_needs_the_bridge_port_and_the_daemon(alone: CniHost) -> None:
    pod = alone.pod("c7-port")
    result = pod.add()
    name = result["interfaces"][0]["name"]
    ip("-n", alone.namespace, "link", "set", name, "nomaster")
    assert "not on the bridge" in pod.check(result).error(102)["msg"]
    ip("-n", alone.namespace, "link", "set", name, "master", "weave")
    pod.check(result).nothing()
    alone.stop()
    pod.check(result).error(11)


def test_c7_check_asks_the_delegated_plugin(shared: CniHost) -> None:
    pod = shared.pod("c7-delegated")
    config = _host_local(shared, "10.40.2.0/24")
    result = pod.add(config)
    pod.check(result, config).nothing()
    for lease in (shared.directory / "host-local" / "weaver").glob("10.*"):
        lease.unlink()
    pod.check(result, config).error()
    pod.delete(config)


@pytest.mark.parametrize("running", [True, False])
def test_c8_version_asks_for_nothing(alone: CniHost, running: bool) -> None:
    if not running:
        alone.stop()
    everything = ("CNI_PATH", "CNI_IFNAME")
    said = alone.call("VERSION", {"cniVersion": "0.4.0"}, drop=everything).result()
    assert said == {"cniVersion": "0.4.0", "supportedVersions": list(VERSIONS)}
    dummy: Json = {"CNI_IFNAME": "dummy", "CNI_NETNS": "dummy", "CNI_CONTAINERID": "-"}
    assert alone.call("VERSION", b"", **dummy).result()["supportedVersions"] == list(VERSIONS)


def test_c10_errors_are_json_on_stdout(shared: CniHost) -> None:
    assert shared.call("ADD", conf(), drop=("CNI_PATH", "CNI_IFNAME")).error(4)["msg"] == REQUIRED
    assert shared.call("FOO", conf()).error(4)["msg"] == "unknown CNI_COMMAND: FOO"
    pod = shared.pod("c10")
    pod.call("ADD", b"{").error(6)
    said = pod.call("ADD", conf("9.9.9")).error(1)
    assert all(version in said["details"] for version in VERSIONS)
    assert said["cniVersion"] == "1.0.0"
    assert (
        pod.call("ADD", conf("0.3.1"), CNI_NETNS="/run/netns/no").error(8)["cniVersion"] == "0.3.1"
    )
    pod.call("ADD", CNI_CONTAINERID="-a").error(4)
    pod.call("ADD", CNI_ARGS="FOO=1").error(4)
    pod.add()
    pod.delete()


def test_c10_without_a_command_it_says_what_it_is(shared: CniHost) -> None:
    done = shared.call(None)
    assert (done.status, done.stdout) == (0, b"")
    assert b"CNI protocol versions supported: " + ", ".join(VERSIONS).encode() in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", "-a"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_IFNAME", "sixteen-octets-x"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
    ],
)
def test_c11_names_that_cannot_be(shared: CniHost, name: str, value: str) -> None:
    pod = shared.pod("c11")
    asked: Json = {name: value}
    said = pod.call("ADD", **asked).error(4)
    assert name in said["msg"]
    pod.add(CNI_IFNAME="fifteen-octets.")
    pod.delete(CNI_IFNAME="fifteen-octets.")


@pytest.mark.parametrize("name", ["", "-net", "a/b", 7, None])
def test_c11_network_names_that_cannot_be(shared: CniHost, name: object) -> None:
    pod = shared.pod("c11-net")
    pod.call("ADD", conf() | {"name": name}).error(7)
    pod.add(conf() | {"name": "Net_1.x"})
    pod.delete()


def test_c15_parallel_adds_get_addresses_of_their_own(shared: CniHost) -> None:
    pods = [shared.pod(f"c15-{n}") for n in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        results = list(pool.map(Pod.add, pods))
    assert len({address(result) for result in results}) == len(pods)
    assert all(pod.link() is not None for pod in pods)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(Pod.delete, pods))
    assert not [key for key in shared.leases() if key.startswith("c15-")]
    assert all(pod.link() is None for pod in pods)


def test_c15_del_after_the_executable_was_killed_in_mid_add(shared: CniHost) -> None:
    pod = shared.pod("c15-killed")
    with shared.steered("ipam-waits"):
        adding = _spawn(pod, "ADD")
        wait_for(lambda: _is_waiting(adding), lambda: "the ADD never reached the daemon")
        adding.send_signal(signal.SIGKILL)
        adding.communicate(timeout=10)
        deleting = _spawn(pod, "DEL")  # must wait for that ADD, which goes on, and then undo it
        with pytest.raises(subprocess.TimeoutExpired):
            deleting.wait(0.5)
    out, _ = deleting.communicate(timeout=20)
    assert out == b""
    assert deleting.returncode == 0
    assert (pod.link(), "c15-killed,eth0" in shared.leases()) == (None, False)
    pod.add()
    pod.delete()


def test_c15_daemon_killed_in_mid_add(alone: CniHost) -> None:
    pod = alone.pod("c15-daemon")
    with alone.steered("ipam-waits"):
        adding = _spawn(pod, "ADD")
        wait_for(lambda: _is_waiting(adding), lambda: "the ADD never reached the daemon")
        alone.kill()
    out, _ = adding.communicate(timeout=20)
    assert json.loads(out)["code"] == 11
    alone.start()
    assert (alone.veths(), alone.leases()) == (set(), {})
    pod.add()
    pod.delete()


def test_c16_unknown_keys_are_tolerated(shared: CniHost) -> None:
    pod = shared.pod("c16")
    config = conf(nobody={"knows": [1, None]}, capabilities={"ips": True}, mtu=0)
    pod.add(config)
    pod.delete(config)


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        (b"", 6),
        (b"null", 6),
        (b"[]", 6),
        (b"\xff\xfe\x00", 6),
        (b"[" * 200_000, 6),
        (b'{"a":' * 150_000, 6),
        (b'{"cniVersion":"1.0.0","name":"weaver","x":' + b"9" * 10_000 + b"}", 6),
        (b'{"cniVersion":"1.0.0","name":"weaver","x":"' + b"a" * (10 << 20) + b'"}', 6),
        (b'{"cniVersion":"1.0.0"}', 7),
        (b'{"cniVersion":["1.0.0"],"name":"weaver"}', 1),
        (json.dumps(conf(mtu="big")).encode(), 7),
        (json.dumps(conf(mtu=20)).encode(), 7),
        (json.dumps(conf(ipam=[])).encode(), 7),
        (json.dumps(conf(ipam={"type": "../bridge"})).encode(), 7),
        (json.dumps(conf(ipam={"type": "no-such-plugin"})).encode(), 7),
        (json.dumps(conf(ipam={"routes": [{"dst": "x"}]})).encode(), 7),
        (json.dumps(conf(isDefaultGateway="yes")).encode(), 7),
        (json.dumps(conf(runtimeConfig={"ips": ["192.0.2.1/24"]})).encode(), 7),
        (json.dumps(conf(runtimeConfig={"ips": ["10.33.1.1", "10.33.1.2"]})).encode(), 2),
        (json.dumps(conf(runtimeConfig={"mac": "01:00:00:00:00:00"})).encode(), 7),
    ],
    ids=range(20),
)
def test_c16_bad_configurations(shared: CniHost, stdin: bytes, code: int) -> None:
    pod = shared.pod("c16-bad")
    before = shared.leases()
    pod.call("ADD", stdin).error(code)
    assert shared.leases() == before
    pod.add()
    pod.delete()


def test_c16_own_namespace_is_refused(shared: CniHost) -> None:
    pod = shared.pod("c16-own")
    for netns in (f"/run/netns/{shared.namespace}", f"/proc/{os.getpid()}/ns/mnt", "/etc/passwd"):
        pod.call("ADD", CNI_NETNS=netns).error(8)
    fifo = shared.directory / "fifo"
    os.mkfifo(fifo)
    pod.call("ADD", CNI_NETNS=str(fifo)).error(8)
    assert "c16-own,eth0" not in shared.leases()
    pod.add()
    pod.delete()


@pytest.mark.parametrize(
    "form", ["/run/netns/{name}", "/var/run/netns/{name}", "/proc/{pid}/ns/net"]
)
def test_c17_forms_of_a_namespace_path(shared: CniHost, form: str) -> None:
    pod = shared.pod("c17")
    sleeper = subprocess.Popen(["nsenter", f"--net={pod.netns}", "sleep", "60"])
    try:
        own = os.stat(pod.netns).st_ino
        inside = f"/proc/{sleeper.pid}/ns/net"
        wait_for(lambda: os.stat(inside).st_ino == own, lambda: "nsenter did not enter")
        path = form.format(name=pod.namespace, pid=sleeper.pid)
        result = pod.add(CNI_NETNS=path)
        assert result["interfaces"][1]["sandbox"] == path
        pod.check(result, CNI_NETNS=path).nothing()
        pod.delete(CNI_NETNS=path)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_gc_frees_what_is_not_valid_of_its_own_network(shared: CniHost) -> None:
    keep, drop, other = (shared.pod(f"gc-{n}") for n in ("keep", "drop", "other"))
    for pod in (keep, drop):
        pod.add(conf("1.1.0"))
    other.add(conf("1.1.0") | {"name": "another"})
    shared.call("GC", conf("1.0.0")).error(1)
    shared.call("GC", conf("1.1.0")).error(7)  # no list is not an empty list
    valid = [{"containerID": "gc-keep", "ifname": "eth0"}]
    shared.call("GC", conf("1.1.0") | {"cni.dev/valid-attachments": valid}).nothing()
    assert [pod.link() is not None for pod in (keep, drop, other)] == [True, False, True]
    assert "gc-drop,eth0" not in shared.leases()
    for pod in (keep, other):
        pod.delete()


def _host_local(shared: CniHost, subnet: str) -> dict[str, object]:
    directory = str(shared.directory / "host-local")
    return conf(ipam={"type": "host-local", "subnet": subnet, "dataDir": directory})


def _host_local_leases(shared: CniHost) -> set[str]:
    directory = shared.directory / "host-local" / "weaver"
    return {path.name for path in directory.glob("10.*")}


def _spawn(pod: Pod, command: str) -> subprocess.Popen[bytes]:
    process = pod.spawn(command)
    assert process.stdin is not None
    process.stdin.write(json.dumps(conf()).encode())
    process.stdin.close()
    process.stdin = None
    return process


def _is_waiting(process: subprocess.Popen[bytes]) -> bool:
    """Whether the executable has said all: it is blocked for its answer."""
    return Path(f"/proc/{process.pid}/syscall").read_text().startswith(WAITS)
