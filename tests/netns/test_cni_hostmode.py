"""``"mode": "host"``: an address for the host itself, asked for by CNI, back with the last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.netns.cni_host import CniHost, Json, Outcome, address, conf, host, ip

pytestmark = pytest.mark.netns


@pytest.fixture
def alone() -> Iterator[CniHost]:
    with host() as made:
        yield made


def call(alone: CniHost, command: str, container: str, config: Json, **more: Any) -> Outcome:
    own = f"/run/netns/{alone.namespace}"
    return alone.call(command, config, **{"CNI_CONTAINERID": container, "CNI_NETNS": own, **more})


def host_conf(version: str = "1.0.0", **more: Any) -> Json:
    return conf(version, mode="host", **more)


def bridge(alone: CniHost) -> str:
    return ip("-n", alone.namespace, "-4", "-o", "addr", "show", "dev", "weave")


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_an_address_of_the_host_comes_and_goes(alone: CniHost, version: str) -> None:
    config = host_conf(version)
    result = call(alone, "ADD", "one", config).result()
    assert result["cniVersion"] == version
    assert result["interfaces"] == [{"name": "weave"}]
    assert result["ips"][0]["interface"] == 0
    assert address(result) in bridge(alone)
    pod = alone.pod("pod")
    pod.add(conf(version, isDefaultGateway=False))
    assert pod.reaches(address(result))
    if version != "0.3.1":
        call(alone, "CHECK", "one", {**config, "prevResult": result}).nothing()
    pod.delete(conf(version))
    call(alone, "DEL", "one", config).nothing()
    call(alone, "DEL", "one", config).nothing()
    assert bridge(alone) == ""
    assert alone.leases() == {}


def test_it_stays_while_anybody_wants_it(alone: CniHost) -> None:
    """Two that ask have one address; a pod whose default route it is keeps it, and a restart of
    the daemon forgets nobody."""
    first = call(alone, "ADD", "one", host_conf()).result()
    assert address(call(alone, "ADD", "two", host_conf()).result()) == address(first)
    assert address(call(alone, "ADD", "one", host_conf()).result()) == address(first)
    alone.kill()
    alone.start()
    call(alone, "DEL", "one", host_conf()).nothing()
    assert address(first) in bridge(alone)
    gateway = alone.pod("pod").add(conf(isDefaultGateway=True))["ips"][0]["gateway"]
    assert gateway == address(first)
    call(alone, "DEL", "two", host_conf()).nothing()
    assert address(first) in bridge(alone)


def test_what_was_there_before_is_not_taken_away(alone: CniHost) -> None:
    gateway = alone.pod("pod").add(conf(isDefaultGateway=True))["ips"][0]["gateway"]
    assert address(call(alone, "ADD", "one", host_conf()).result()) == gateway
    call(alone, "DEL", "one", host_conf()).nothing()
    assert gateway in bridge(alone)


def test_an_address_may_be_asked_for(alone: CniHost) -> None:
    wanted = host_conf(runtimeConfig={"ips": ["10.32.7.7/12"]})
    assert address(call(alone, "ADD", "one", wanted).result()) == "10.32.7.7"
    assert "10.32.7.7" in bridge(alone)


def test_check_finds_what_is_wrong(alone: CniHost) -> None:
    result = call(alone, "ADD", "one", host_conf()).result()
    asked = host_conf(prevResult=result)
    assert "has not asked" in call(alone, "CHECK", "two", asked).error(102)["msg"]
    cidr = result["ips"][0]["address"]
    ip("-n", alone.namespace, "addr", "del", cidr, "dev", "weave")
    assert "is missing" in call(alone, "CHECK", "one", asked).error(102)["msg"]


def test_gc_frees_what_the_runtime_forgot(alone: CniHost) -> None:
    config = host_conf("1.1.0")
    for name in ("kept", "lost"):
        call(alone, "ADD", name, config).result()
    valid = [{"containerID": "kept", "ifname": "eth0"}]
    alone.call("GC", {**config, "cni.dev/valid-attachments": valid}).nothing()
    assert bridge(alone) != ""
    alone.call("GC", {**config, "cni.dev/valid-attachments": []}).nothing()
    assert bridge(alone) == ""
    assert alone.leases() == {}


def test_what_is_wrong_is_refused_and_nothing_is_left(alone: CniHost) -> None:
    other = alone.pod("other")
    assert other.call("ADD", host_conf()).error(8)["details"] == "netns-not-own"
    missing = call(alone, "ADD", "one", host_conf(), CNI_NETNS="/run/netns/none")
    assert missing.error(8)["details"] == "netns-missing"
    assert "mode" in other.call("ADD", conf(mode="ptp")).error(7)["msg"]
    with alone.steered("ipam-fails", "no-space"):
        call(alone, "ADD", "one", host_conf()).error(101)
    assert bridge(alone) == ""
    assert alone.leases() == {}
    # The next good one works.
    assert address(call(alone, "ADD", "one", host_conf()).result()) in bridge(alone)
