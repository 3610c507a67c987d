"""With other plugins: portmap behind ours, their IPAM under ours, ours under Debian's bridge."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

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

PORTMAP = f"{DEBIAN_PLUGINS}/portmap"
BRIDGE = f"{DEBIAN_PLUGINS}/bridge"
WORLD = "198.51.100.1"


@pytest.fixture
def alone() -> Iterator[CniHost]:
    with host() as made:
        yield made


def test_pods_of_a_host_reach_each_other(alone: CniHost) -> None:
    one, two = alone.pod("one"), alone.pod("two")
    one.add()
    there = address(two.add())
    assert one.reaches(there)
    two.delete()
    assert not one.reaches(there)


def test_a_start_puts_living_pods_on_a_bridge_made_anew(alone: CniHost) -> None:
    one, two = alone.pod("one"), alone.pod("two")
    result, there = one.add(), address(two.add())
    alone.kill()
    ip("-n", alone.namespace, "link", "del", "weave")
    assert not one.reaches(there)
    alone.start()
    wait_for(lambda: one.reaches(there), lambda: "the kernel still tells what it could not resolve")
    one.check(result).nothing()


def test_attaching_announces_the_address(alone: CniHost) -> None:
    """Who knew the address under another MAC learns the new one without asking."""
    one, two = alone.pod("one"), alone.pod("two")
    one.add()
    there = address(two.add(CNI_ARGS="MAC=02:00:00:00:00:a1"))
    assert one.reaches(there)
    two.delete()
    ip("-n", one.namespace, "neigh", "replace", there, "lladdr", "02:00:00:00:00:a1",
       "dev", "eth0", "nud", "stale")  # fmt: skip
    two.add(CNI_ARGS=f"MAC=02:00:00:00:00:a2;IP={there}")

    def learned() -> bool:
        return "02:00:00:00:00:a2" in ip("-n", one.namespace, "neigh", "show", there)

    wait_for(learned, lambda: ip("-n", one.namespace, "neigh", "show"), within=5)


def test_default_gateway_exposes_the_host_and_gives_a_way_out(alone: CniHost) -> None:
    _world(alone)
    pod, plain = alone.pod("out"), alone.pod("plain")
    plain.add()
    assert not plain.reaches(WORLD)
    result = pod.add(conf(isDefaultGateway=True))
    gateway = result["ips"][0]["gateway"]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": gateway}]
    assert f"inet {gateway}/12" in ip("-n", alone.namespace, "addr", "show", "weave")
    assert pod.reaches(gateway)
    assert pod.reaches(WORLD)  # who has no route back to us: NAT made it possible
    declined = alone.pod("declined")
    assert declined.add(conf(isDefaultGateway=False))["routes"] == []
    alone.kill()
    ip("-n", alone.namespace, "addr", "flush", "dev", "weave")
    alone.start()
    assert pod.reaches(WORLD)  # the exposure is the host's, and survives the daemon


def test_portmap_behind_ours(alone: CniHost) -> None:
    world = _world(alone)
    pod = alone.pod("web")
    runtime = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    result = pod.add(conf(isDefaultGateway=True))
    chained = conf(type="portmap", runtimeConfig=runtime, prevResult=result)
    assert pod.call("ADD", chained, path=PORTMAP).result()["ips"] == result["ips"]
    with _server(pod, 80):
        assert _fetch(world, "192.0.2.1", 8080) == "hello from the pod"
    pod.call("DEL", chained, path=PORTMAP).nothing()
    pod.delete(conf(isDefaultGateway=True, prevResult=result))


def test_ours_behind_another_plugin_keeps_what_it_made(alone: CniHost) -> None:
    pod = alone.pod("second")
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "other0", "sandbox": pod.netns}],
        "ips": [{"address": "192.0.2.9/24", "interface": 0}],
        "routes": [{"dst": "203.0.113.0/24"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    result = pod.add(conf(prevResult=before))
    assert result["interfaces"][0] == {"name": "other0", "sandbox": pod.netns}
    assert [entry["interface"] for entry in result["ips"]] == [0, 2]
    assert result["interfaces"][2]["name"] == "eth0"
    assert result["dns"] == before["dns"]


def test_our_ipam_under_debians_bridge(alone: CniHost) -> None:
    pod = alone.pod("bridged")
    config = _bridge_config()
    result = pod.add(config, path=BRIDGE)
    assert alone.leases() == {"bridged,eth0": address(result)}
    assert result["routes"] == [{"dst": "203.0.113.0/24", "gw": "10.32.200.1"}]
    pod.check(result, config, path=BRIDGE).nothing()
    pod.delete(config, path=BRIDGE)
    assert alone.leases() == {}
    failed = pod.check(result, config, path=BRIDGE)  # whose errors lack their cniVersion
    assert (failed.status, json.loads(failed.stdout)["code"]) == (1, 102)


def test_our_ipam_alone(alone: CniHost) -> None:
    config = conf("0.4.0", ipam={"type": "weaver-ipam", "gateway": "10.32.200.1"})
    pod = alone.pod("ipam")
    result = pod.add(config, plugin="weaver-ipam")
    assert result["ips"] == [{"version": "4", "address": "10.32.0.1/12", "gateway": "10.32.200.1"}]
    assert "interfaces" not in result
    assert pod.add(config, plugin="weaver-ipam") == result  # keyed: the same again
    with alone.steered("ipam-fails", "no-space"):
        other = alone.pod("other")
        assert other.call("ADD", config, plugin="weaver-ipam").error(101)["details"] == "no-space"
    pod.delete(config, plugin="weaver-ipam")
    pod.delete(config, plugin="weaver-ipam")
    assert alone.leases() == {}


def test_our_ipam_does_not_free_the_address_of_an_interface_of_ours(alone: CniHost) -> None:
    pod = alone.pod("both")
    pod.add()
    pod.delete(plugin="weaver-ipam")
    assert "both,eth0" in alone.leases()
    pod.delete()
    assert alone.leases() == {}


def test_gc_of_our_ipam_alone(alone: CniHost) -> None:
    keep, drop = alone.pod("keep"), alone.pod("drop")
    config = conf("1.1.0", ipam={"type": "weaver-ipam"})
    for pod in (keep, drop):
        pod.add(config, plugin="weaver-ipam")
    attached = alone.pod("attached")
    attached.add(conf("1.1.0"))
    valid = [{"containerID": "keep", "ifname": "eth0"}]
    collect = {**config, "cni.dev/valid-attachments": valid}
    alone.call("GC", collect, plugin="weaver-ipam").nothing()
    assert set(alone.leases()) == {"keep,eth0", "attached,eth0"}


def test_their_ipam_under_ours(alone: CniHost) -> None:
    pod, other = alone.pod("theirs"), alone.pod("theirs-too")
    config = conf(
        ipam={
            "type": "host-local",
            "subnet": "10.40.3.0/24",
            "gateway": "10.40.3.1",
            "routes": [{"dst": "203.0.113.0/24"}],
            "dataDir": str(alone.directory / "host-local"),
        }
    )
    result = pod.add(config)
    assert result["routes"] == [{"dst": "203.0.113.0/24", "gw": "10.40.3.1"}]
    assert alone.leases() == {}  # ours gave none
    assert other.reaches(address(result)) is False
    other.add(config)
    assert other.reaches(address(result))
    for one in (pod, other):
        one.delete(config)


def _bridge_config() -> Json:
    routes = [{"dst": "203.0.113.0/24", "gw": "10.32.200.1"}]
    return conf(type="bridge", bridge="cni-theirs", ipam={"type": "weaver-ipam", "routes": routes})


def _world(host: CniHost) -> Pod:
    """A network behind the host that knows nothing of pods."""
    world = host.pod("world")
    ip("-n", host.namespace, "link", "add", "up0", "type", "veth",
       "peer", "name", "up0", "netns", world.namespace)  # fmt: skip
    ip("-n", host.namespace, "link", "set", "lo", "up")
    for namespace, own in ((host.namespace, "192.0.2.1"), (world.namespace, "192.0.2.2")):
        ip("-n", namespace, "addr", "add", f"{own}/24", "dev", "up0")
        ip("-n", namespace, "link", "set", "up0", "up")
    ip("-n", world.namespace, "link", "set", "lo", "up")
    ip("-n", world.namespace, "addr", "add", f"{WORLD}/32", "dev", "lo")
    ip("-n", host.namespace, "route", "add", f"{WORLD}/32", "via", "192.0.2.2")
    return world


@contextmanager
def _server(pod: Pod, port: int) -> Iterator[None]:
    """A server in a pod that greets whoever connects."""
    program = (
        "import socket\n"
        f"s = socket.create_server(('', {port}))\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    c, _ = s.accept(); c.sendall(b'hello from the pod'); c.close()\n"
    )
    command = ["nsenter", f"--net={pod.netns}", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"up\n"
            yield
        finally:
            process.kill()


def _fetch(client: Pod, to: str, port: int) -> str:
    """What a client there hears."""
    program = (
        "import socket\n"
        f"s = socket.create_connection(('{to}', {port}), 5)\n"
        "print(s.makefile().read(), end='')\n"
    )
    done = client.run(sys.executable, "-c", program)
    return done.stdout or done.stderr
