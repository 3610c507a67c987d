"""C1 to C17 by number, in each version of the specification, on the installed executables.

What a check is, and its edge cases, is in the other files; here each is held once a version.
"""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Iterator

import pytest

from tests.netns.census import Census, assert_settles, settled
from tests.netns.cni_host import (
    DEBIAN_PLUGINS,
    CniHost,
    Json,
    Pod,
    address,
    conf,
    host,
    ip,
    wait_for,
)

pytestmark = pytest.mark.netns

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
ROUTES = [{"dst": "192.0.2.0/24", "gw": "10.32.0.9"}]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(version: str) -> Iterator[CniHost]:
    with host() as one:
        yield one


@pytest.fixture(scope="module")
def pod(made: CniHost) -> Pod:
    return made.pod("pod")


@pytest.fixture(scope="module")
def empty(made: CniHost, pod: Pod, version: str) -> Census:
    pod.add(conf(version))
    pod.delete(conf(version))
    return settled(made)


@pytest.fixture(autouse=True)
def nothing_stays(made: CniHost, empty: Census) -> Iterator[None]:
    yield
    assert_settles(made, empty, "files")


def test_c1_a_result_of_that_version(pod: Pod, version: str) -> None:
    result = pod.add(conf(version))
    assert result["cniVersion"] == version
    assert result["ips"][0].get("version") == ("4" if version < "1" else None)
    pod.delete(conf(version))


def test_c2_interfaces_addresses_routes(pod: Pod, version: str) -> None:
    result = pod.add(conf(version, ipam={"routes": ROUTES}))
    outside, inside = result["interfaces"]
    assert ("sandbox" in outside, inside["sandbox"], inside["name"]) == (False, pod.netns, "eth0")
    assert ("mtu" in inside) == (version == "1.1.0")
    assert (result["ips"][0]["interface"], result["routes"], result["dns"]) == (1, ROUTES, {})
    pod.delete(conf(version))


def test_c3_an_interface_that_exists(pod: Pod, version: str) -> None:
    ip("-n", pod.namespace, "link", "add", "eth0", "type", "bridge")
    said = pod.call("ADD", conf(version)).error(104)
    assert said["cniVersion"] == version
    ip("-n", pod.namespace, "link", "del", "eth0")


def test_c4_a_failure_rolls_back(made: CniHost, pod: Pod, version: str) -> None:
    unreachable = [{"dst": "192.0.2.0/24", "gw": "8.8.8.8"}]
    pod.call("ADD", conf(version, ipam={"routes": unreachable})).error(100)
    directory = made.directory / "host-local"
    local = {"type": "host-local", "subnet": "10.40.1.0/24", "dataDir": str(directory)}
    config = conf(version if version < "1.1" else "1.0.0", ipam={**local, "routes": unreachable})
    pod.call("ADD", config).error(100)
    assert list(directory.glob("*/10.*")) == []


def test_c5_del_is_idempotent(pod: Pod, version: str) -> None:
    config = conf(version)
    result = pod.add(config)
    pod.delete({**config, "prevResult": result}, CNI_NETNS="")
    for more in ({}, {"CNI_NETNS": ""}, {"drop": ("CNI_NETNS",)}, {"CNI_NETNS": "/run/netns/gone"}):
        pod.delete(config, **more)


def test_c6_the_daemon_is_down(made: CniHost, pod: Pod, version: str) -> None:
    config = conf(version)
    pod.add(config)
    made.stop(signal.SIGKILL)
    assert pod.call("ADD", config).error(11)["cniVersion"] == version
    assert made.call("STATUS", config).error(50)["cniVersion"] == version
    pod.delete(config)
    made.start()
    wait_for(lambda: made.leases() == {}, made.leases)


def test_c7_check(pod: Pod, version: str) -> None:
    config = conf(version, ipam={"routes": ROUTES})
    result = pod.add(config)
    if version == "0.3.1":
        said = pod.check(result, config).error(1)
        assert said["msg"] == "config version does not allow CHECK"
    else:
        pod.check(result, config).nothing()
        ip("-n", pod.namespace, "route", "del", "192.0.2.0/24")
        pod.check(result, config).error(102)
        pod.call("CHECK", config).error(7)
    pod.delete(config)


def test_c8_version(made: CniHost, version: str) -> None:
    for plugin in ("weaver-net", "weaver-ipam"):
        said = made.call("VERSION", {"cniVersion": version}, plugin=plugin, CNI_NETNS="dummy")
        assert said.result() == {"cniVersion": version, "supportedVersions": list(VERSIONS)}


def test_c9_gc_and_status(made: CniHost, pod: Pod, version: str) -> None:
    config = conf(version)
    pod.add(config)
    empty_list = {**config, "cni.dev/valid-attachments": []}
    if version == "1.1.0":
        valid = [{"containerID": "pod", "ifname": "eth0"}]
        made.call("GC", {**config, "cni.dev/valid-attachments": valid}).nothing()
        assert pod.link() is not None
        made.call("GC", empty_list).nothing()
        made.call("STATUS", config).nothing()
        assert pod.link() is None
    else:
        assert "GC" in made.call("GC", empty_list).error(1)["msg"]
        assert "STATUS" in made.call("STATUS", config).error(1)["msg"]
        pod.delete(config)


def test_c10_errors(made: CniHost, pod: Pod, version: str) -> None:
    for said, code in (
        (pod.call("FOO", conf(version)), 4),
        (pod.call("ADD", conf(version), drop=("CNI_PATH",)), 4),
        (pod.call("ADD", conf(version, mtu=1)), 7),
        (pod.call("ADD", conf(version, runtimeConfig={"ips": ["10.33.0.1", "10.33.0.2"]})), 2),
        (pod.call("ADD", conf(version), CNI_NETNS="/run/netns/gone"), 8),
    ):
        assert said.error(code)["cniVersion"] == version


def test_c11_names(pod: Pod, version: str) -> None:
    pod.call("ADD", conf(version), CNI_CONTAINERID="-a").error(4)
    pod.call("ADD", conf(version), CNI_IFNAME="sixteen-octets-x").error(4)
    pod.call("ADD", conf(version) | {"name": "a/b"}).error(7)


def test_c12_chained(pod: Pod, version: str) -> None:
    """Behind another plugin, and another behind ours."""
    before: Json = {
        "cniVersion": version,
        "interfaces": [{"name": "other0", "sandbox": pod.netns}],
        "ips": [],
        "routes": [{"dst": "203.0.113.0/24"}],
    }
    result = pod.add(conf(version, prevResult=before))
    assert [i["name"] for i in result["interfaces"]][::2] == ["other0", "eth0"]
    assert result["routes"] == before["routes"]
    if version != "1.1.0":  # which Debian's plugins do not know
        tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}
        chained = conf(version, prevResult=result) | tuning
        path = f"{DEBIAN_PLUGINS}/tuning"
        assert pod.call("ADD", chained, path=path).result()["ips"] == result["ips"]
        pod.call("DEL", chained, path=path).nothing()
    pod.delete(conf(version))


def test_c13_ipam_by_itself(made: CniHost, pod: Pod, version: str) -> None:
    config = conf(version, ipam={"type": "weaver-ipam", "routes": ROUTES})
    result = pod.add(config, plugin="weaver-ipam")
    assert sorted(result) == ["cniVersion", "dns", "ips", "routes"]
    assert "interface" not in result["ips"][0]
    assert pod.add(config, plugin="weaver-ipam") == result
    if version != "0.3.1":
        pod.check(result, config, plugin="weaver-ipam").nothing()
    for _ in range(2):
        pod.delete(config, plugin="weaver-ipam")


def test_c14_what_the_runtime_asks_for(pod: Pod, version: str) -> None:
    asked = {"ips": ["10.33.0.9/12"], "mac": "02:11:22:33:44:55", "portMappings": [], "x": 1}
    result = pod.add(conf(version, runtimeConfig=asked, capabilities={"ips": True}))
    assert (address(result), result["interfaces"][1]["mac"]) == ("10.33.0.9", "02:11:22:33:44:55")
    pod.delete(conf(version))
    pod.call("ADD", conf(version), CNI_ARGS="K8S_POD_NAME=a;UNKNOWN=1").error(4)
    pod.add(
        conf(version), CNI_ARGS="UNKNOWN=1;IgnoreUnknown=1;K8S_POD_NAME=a;MAC=02:11:22:33:44:56"
    )
    pod.delete(conf(version))


def test_c15_at_once(made: CniHost, version: str) -> None:
    pods = [made.pod(f"many-{n}") for n in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda one: one.add(conf(version)), pods))
        assert len({address(result) for result in results}) == len(pods)
        list(pool.map(lambda one: one.delete(conf(version)), pods))
    for one in pods:
        made.forget(one)


def test_c16_what_is_strange(made: CniHost, pod: Pod, version: str) -> None:
    pod.add(conf(version, nobody={"knows": [1, None]}))
    pod.delete(conf(version, nobody={"knows": [1, None]}))
    pod.call("ADD", {"cniVersion": version, "type": "weaver-net"}).error(7)
    pod.call("ADD", conf(version, x="a" * (2 << 20))).error(6)
    pod.call("ADD", conf(version), CNI_NETNS=f"/run/netns/{made.namespace}").error(8)


def test_c17_forms_of_a_path(made: CniHost, pod: Pod, version: str) -> None:
    held = os.open(pod.netns, os.O_RDONLY)
    try:
        for path in (f"/var/run/netns/{pod.namespace}", f"/proc/{os.getpid()}/fd/{held}"):
            result = pod.add(conf(version), CNI_NETNS=path)
            assert result["interfaces"][1]["sandbox"] == path
            pod.delete(conf(version), CNI_NETNS=path)
    finally:
        os.close(held)
