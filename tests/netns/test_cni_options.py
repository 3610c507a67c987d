"""What a network may be told: a way out or none, masks, hairpins, bounds, several interfaces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.netns.census import assert_settles, settled
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
from tests.netns.test_cni_chain import WORLD, _world

pytestmark = pytest.mark.netns

MEGABIT = 1_000_000


@pytest.fixture
def alone() -> Iterator[CniHost]:
    with host() as made:
        yield made


def test_hairpin(alone: CniHost) -> None:
    """A port hears itself only where it is asked for, also on a bridge made anew."""
    plain, own = alone.pod("plain"), alone.pod("own")
    outside = {
        pod.container: pod.add(conf(hairpinMode=on))["interfaces"][0]["name"]
        for pod, on in ((plain, False), (own, True))
    }
    assert [_hairpin(alone, outside[name]) for name in ("plain", "own")] == [False, True]
    alone.kill()
    ip("-n", alone.namespace, "link", "del", "weave")
    alone.start()
    assert [_hairpin(alone, outside[name]) for name in ("plain", "own")] == [False, True]


def test_masquerade_or_not(alone: CniHost) -> None:
    """Without it the world sees the pod's own address, and has to know the way back."""
    world = _world(alone)
    masked, plain = alone.pod("masked"), alone.pod("plain")
    masked.add(conf(isDefaultGateway=True))
    inside = address(plain.add(conf(isDefaultGateway=True, ipMasq=False)))
    assert masked.reaches(WORLD)
    assert not plain.reaches(WORLD)
    ip("-n", world.namespace, "route", "add", "10.32.0.0/12", "via", "192.0.2.1")
    assert _seen_from(world, plain) == inside
    assert _seen_from(world, masked) == "192.0.2.1"
    plain.delete()
    other = alone.pod("other")  # has the address by now, and is masked
    assert (
        address(other.add(conf(isDefaultGateway=True, runtimeConfig={"ips": [inside]}))) == inside
    )
    assert _seen_from(world, other) == "192.0.2.1"


def test_rules_that_somebody_flushed_are_made_anew(alone: CniHost) -> None:
    _world(alone)
    pod, plain = alone.pod("out"), alone.pod("plain")
    pod.add(conf(isDefaultGateway=True))
    plain.add(conf(isDefaultGateway=True, ipMasq=False))
    whole = _rules(alone)
    assert "masquerade" in whole
    for broken in (
        ["flush", "ruleset"],
        ["delete", "table", "inet", "weaver"],
        ["flush", "chain", "inet", "weaver", "postrouting"],
        ["add", "rule", "inet", "weaver", "postrouting", "drop"],
    ):
        subprocess.run([*alone.within(), "nft", *broken], check=True)
        assert _rules(alone) != whole
        with alone.steered("mends"):
            wait_for(lambda: _rules(alone) == whole, lambda: _rules(alone))
    assert pod.reaches(WORLD)
    others = ["add", "table", "inet", "somebody-elses"]
    subprocess.run([*alone.within(), "nft", *others], check=True)
    with alone.steered("mends"):
        assert pod.reaches(WORLD)
    assert _rules(alone) == whole


def test_pods_reach_each_other_where_forwarding_is_dropped(alone: CniHost) -> None:
    """As dockerd, and whoever loads br_netfilter, leaves a host: frames between ports, too."""
    one, two, out = alone.pod("one"), alone.pod("two"), alone.pod("out")
    _world(alone)
    for pod in (one, two):
        pod.add()
    there = two.link()
    assert there is not None
    address_of_two = there["addr_info"][0]["local"]
    for command in (
        ["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"],
        ["iptables", "-P", "FORWARD", "DROP"],
        ["iptables", "-A", "FORWARD", "-i", "somebody", "-j", "ACCEPT"],
    ):
        subprocess.run([*alone.within(), *command], check=True)
    assert not one.reaches(address_of_two)
    with alone.steered("mends"):
        wait_for(lambda: one.reaches(address_of_two), lambda: _forward(alone))
        out.add(conf(isDefaultGateway=True))
        wait_for(lambda: out.reaches(WORLD), lambda: _forward(alone))
        ours = _forward(alone)
        for broken in (["-D", "FORWARD", "-j", "WEAVER-FORWARD"], ["-F", "WEAVER-FORWARD"],
                       ["-I", "FORWARD", "-j", "DROP"]):  # fmt: skip
            subprocess.run([*alone.within(), "iptables", *broken], check=True)
            wait_for(lambda: one.reaches(address_of_two), lambda: _forward(alone))
        assert [line for line in _forward(alone) if line not in ours] == ["-A FORWARD -j DROP"]


FIREWALLD = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    reject with icmpx admin-prohibited
  }
}
"""
"""What firewalld 1.3 makes of a host none of whose zones was told of the bridge."""


def test_pods_reach_each_other_and_the_world_where_firewalld_rejects(alone: CniHost) -> None:
    one, two = alone.pod("one"), alone.pod("two")
    _world(alone)
    one.add(conf(isDefaultGateway=True))
    far = address(two.add(conf(isDefaultGateway=True)))
    within = alone.within()
    subprocess.run([*within, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"], check=True)

    def loaded() -> None:
        text = "table inet firewalld\ndelete table inet firewalld\n" + FIREWALLD
        subprocess.run([*within, "nft", "-f", "-"], input=text, text=True, check=True)

    def shown() -> str:
        command = [*within, "nft", "list", "table", "inet", "firewalld"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    loaded()
    assert not one.reaches(far)
    assert not one.reaches(WORLD)
    with alone.steered("mends"):
        wait_for(lambda: one.reaches(far) and one.reaches(WORLD), shown)
        whole = shown()
        loaded()  # firewall-cmd --reload
        wait_for(lambda: one.reaches(far) and one.reaches(WORLD), shown)
        assert shown() == whole
        assert whole.count('comment "weaver"') == 2
        first = ["insert", "rule", "inet", "firewalld", "filter_FORWARD", "counter", "reject"]
        subprocess.run([*within, "nft", *first], check=True)
        wait_for(lambda: one.reaches(far), shown)
        assert shown().count('comment "weaver"') == 2
    remove = [sys.executable, "-c", "from weaver.daemon.natrules import remove_all; remove_all()"]
    subprocess.run([*within, *remove], check=True)
    assert "weaver" not in shown()
    assert "admin-prohibited" in shown()


def test_a_second_interface_does_not_take_the_way_out(alone: CniHost) -> None:
    """As multus asks: one pod, several interfaces, each with its own ADD, CHECK and DEL."""
    pod = alone.pod("several")
    before = settled(alone)
    config = conf(isDefaultGateway=True)
    first = pod.add(config)
    second = pod.add(config | {"name": "other"}, CNI_IFNAME="net1")
    assert first["routes"] == [{"dst": "0.0.0.0/0", "gw": first["ips"][0]["gateway"]}]
    assert second["routes"] == []
    assert address(first) != address(second)
    defaults = json.loads(ip("-n", pod.namespace, "-j", "route", "show", "default"))
    assert [route["dev"] for route in defaults] == ["eth0"]
    pod.check(first, config).nothing()
    pod.check(second, config | {"name": "other"}, CNI_IFNAME="net1").nothing()
    pod.delete(CNI_IFNAME="net1")
    pod.check(first, config).nothing()
    pod.delete()
    assert settled(alone)["rows"] == before["rows"]


@pytest.mark.parametrize("asked", ["ips", "args", "environment"])
def test_an_address_and_a_mac_asked_for(alone: CniHost, asked: str) -> None:
    """In each of the ways there are; a prefix is ours, whatever theirs was."""
    pod = alone.pod("asking")
    wanted: Json = {"ips": ["10.33.0.9/24", "10.33.0.9"], "mac": "02:11:22:33:44:55"}
    ways: dict[str, tuple[Json, str]] = {
        "ips": (conf(runtimeConfig=wanted), ""),
        "args": (conf(args={"cni": wanted}), ""),
        "environment": (conf(), "IP=10.33.0.9;MAC=02:11:22:33:44:55"),
    }
    config, args = ways[asked]
    result = pod.add(config, CNI_ARGS=args)
    assert result["ips"][0]["address"] == "10.33.0.9/12"
    assert result["interfaces"][1]["mac"] == "02:11:22:33:44:55"


def test_bounds_hold_in_both_directions(alone: CniHost) -> None:
    """The kernel's own words of what it was told, at both ends, and that it counts by them."""
    pod, other = alone.pod("bounded"), alone.pod("other")
    bounds = {"ingressRate": 4 * MEGABIT, "ingressBurst": MEGABIT, "egressRate": 8 * MEGABIT}
    config = conf(runtimeConfig={"bandwidth": bounds})
    result, there = pod.add(config), address(other.add())
    outside = result["interfaces"][0]["name"]
    assert _bound(alone.namespace, outside) == (4 * MEGABIT // 8, MEGABIT // 8)
    assert _bound(pod.namespace, "eth0") == (8 * MEGABIT // 8, 8 * MEGABIT // 80)
    assert _bound(other.namespace, "eth0") is None
    pod.check(result, config).nothing()
    flood = ("ping", "-q", "-f", "-c300", "-s1300", "-w3")
    pod.run(*flood, there)
    assert _held_back(alone.namespace, outside) > 0
    assert _held_back(pod.namespace, "eth0") > 0
    for namespace, device in ((alone.namespace, outside), (pod.namespace, "eth0")):
        ip("netns", "exec", namespace, "tc", "qdisc", "del", "dev", device, "root")
        assert "bound" in pod.check(result, config).error(102)["msg"]


@pytest.mark.parametrize(
    ("bandwidth", "says"),
    [
        ([], "bandwidth"),
        ({"ingressRate": "1M"}, "ingressRate"),
        ({"egressRate": -1}, "egressRate"),
        ({"egressRate": 7_999}, "egressRate"),
        ({"ingressBurst": 1.5}, "ingressBurst"),
        ({"ingressRate": 1 << 64}, "ingressRate"),
        ({"egressRate": True}, "egressRate"),
    ],
)
def test_bounds_that_cannot_be(alone: CniHost, bandwidth: object, says: str) -> None:
    pod = alone.pod("nonsense")
    before = settled(alone)
    config = conf(runtimeConfig={"bandwidth": bandwidth})
    assert says in pod.call("ADD", config).error(7)["msg"]
    assert_settles(alone, before)


@pytest.mark.parametrize("kind", ["bridge", "ptp", "macvlan", "ipvlan"])
def test_our_ipam_under_debians_plugins(alone: CniHost, kind: str) -> None:
    ip("-n", alone.namespace, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    for name in ("up0", "up1"):
        ip("-n", alone.namespace, "link", "set", name, "up")
    if kind in ("macvlan", "ipvlan") and not _kernel_has(alone, kind):
        pytest.skip(f"netns: this kernel has no {kind}")
    pod = alone.pod("theirs")
    more: Json = {"bridge": {"bridge": "cni-theirs"}, "ptp": {}}.get(kind, {"master": "up0"})
    ipam = {"type": "weaver-ipam", "gateway": "10.32.200.1"}
    config = conf("0.4.0", **more, ipam=ipam) | {"type": kind}
    before = settled(alone)
    result = pod.add(config, path=f"{DEBIAN_PLUGINS}/{kind}")
    link = pod.link()
    assert link is not None
    assert address(result) in [a["local"] for a in link["addr_info"]]
    assert alone.leases() == {"theirs,eth0": address(result)}
    pod.delete({**config, "prevResult": result}, path=f"{DEBIAN_PLUGINS}/{kind}")
    for part in ("leases", "rows", "processes"):
        assert settled(alone)[part] == before[part]


@pytest.mark.parametrize("kind", ["tuning", "firewall", "bandwidth"])
def test_debians_plugins_behind_ours(alone: CniHost, kind: str) -> None:
    pod = alone.pod("chained")
    before = settled(alone)
    result = pod.add(conf("0.4.0"))
    more: dict[str, Json] = {
        "tuning": {"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}},
        "firewall": {"backend": "iptables"},
        "bandwidth": {"ingressRate": MEGABIT, "ingressBurst": MEGABIT},
    }
    chained = conf("0.4.0", **more[kind], prevResult=result) | {"type": kind}
    path = f"{DEBIAN_PLUGINS}/{kind}"
    assert pod.call("ADD", chained, path=path).result()["ips"] == result["ips"]
    pod.check(result, chained, path=path).nothing()
    pod.check(result, conf("0.4.0")).nothing()
    pod.call("DEL", chained, path=path).nothing()
    pod.delete(conf("0.4.0"))
    for part in ("leases", "rows", "processes"):
        assert settled(alone)[part] == before[part]


def _bound(namespace: str, device: str) -> tuple[int, int] | None:
    """Octets a second and at once that a device was told; None for no bound."""
    shown = json.loads(ip("netns", "exec", namespace, "tc", "-j", "qdisc", "show", "dev", device))
    for qdisc in shown:
        if qdisc["kind"] == "tbf":
            return qdisc["options"]["rate"], qdisc["options"]["burst"]
    return None


def _held_back(namespace: str, device: str) -> int:
    """How often something had to wait."""
    shown = ip("netns", "exec", namespace, "tc", "-s", "-j", "qdisc", "show", "dev", device)
    return int(json.loads(shown)[0]["overlimits"])


def _hairpin(host: CniHost, name: str) -> bool:
    shown = json.loads(ip("-n", host.namespace, "-d", "-j", "link", "show", name))[0]
    return bool(shown["linkinfo"]["info_slave_data"]["hairpin"])


def _forward(host: CniHost) -> list[str]:
    command = [*host.within(), "iptables", "-S"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _rules(host: CniHost) -> str:
    done = subprocess.run(
        [*host.within(), "nft", "list", "table", "inet", "weaver"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def _kernel_has(host: CniHost, kind: str) -> bool:
    command = ["ip", "-n", host.namespace, "link", "add", "try0", "link", "up0", "type", kind]
    made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if made:
        ip("-n", host.namespace, "link", "del", "try0")
    return made


def _seen_from(world: Pod, pod: Pod) -> str:
    """Whose address a server out there sees when the pod connects."""
    program = (
        "import socket\n"
        f"s = socket.create_server(('{WORLD}', 0))\n"
        "print(s.getsockname()[1], flush=True)\n"
        "print(s.accept()[1][0], flush=True)\n"
    )
    command = ["nsenter", f"--net={world.netns}", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = server.stdout.readline().strip()
            connect = f"import socket; socket.create_connection(('{WORLD}', {port}), 5)"
            done = pod.run(sys.executable, "-c", connect)
            assert done.returncode == 0, done.stderr
            return server.stdout.readline().strip()
        finally:
            server.kill()
