"""docs/ipam.md R25: pods have an address of each family, or of the ranges they ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ipam.address import AddressRange
from ipam.effects import AllocationKey
from mesh.errors import OperatorError
from tests.unit.network_twin import IpamTwin, NetworkTwin, pools
from weaver.cni import hostmode
from weaver.cni.config import Call, parse
from weaver.cni.errors import CniError
from weaver.cni.handler import Handler
from weaver.daemon.attach import Attacher, AttachRequest
from weaver.daemon.attach_store import AttachmentStore
from weaver.daemon.pools import Pool

RANGES = [
    AddressRange.parse(text)
    for text in ("10.32.0.0/24", "10.96.0.0/24", "fd00:32::/64", "fd00:96::/64")
]
FOUR, OTHER_FOUR, SIX, OTHER_SIX = RANGES
WEB = AttachRequest("web", "eth0", "/ns/web", network="net")
KEY = AllocationKey("web", "eth0")


class Host:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "attachments.db"
        self.network = NetworkTwin(namespaces={"/ns/web": set()})
        self.twins = [IpamTwin(range) for range in RANGES]
        self.restart()

    def restart(self) -> None:
        self.attacher = Attacher(pools(*self.twins), self.network, AttachmentStore(self.path), 1420)

    @property
    def held(self) -> list[str]:
        found = (t.range.text(a) for t in self.twins for a in t.held.values())
        return sorted(found)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_a_pod_has_an_address_of_the_first_range_of_each_family(host: Host) -> None:
    row = await host.attacher.attach(WEB)
    assert row.addresses == ("10.32.0.1/24", "fd00:32::1/64")
    assert await host.attacher.attach(WEB) == row
    host.restart()
    await host.attacher.reconcile()
    assert host.attacher.list() == [row]
    assert await host.attacher.detach("web") == 1
    assert host.held == []


@pytest.mark.parametrize(
    ("asked", "ranges", "given"),
    [
        (["10.32.0.9"], [], ["10.32.0.9/24", "fd00:32::1/64"]),
        (["fd00:32::9/64"], [], ["10.32.0.1/24", "fd00:32::9/64"]),
        (["10.96.0.9"], [], ["10.96.0.9/24", "fd00:32::1/64"]),
        (["10.96.0.9", "10.32.0.9"], [], ["10.32.0.9/24", "10.96.0.9/24", "fd00:32::1/64"]),
        ([], ["10.96.0.0/24"], ["10.96.0.1/24"]),
        ([], ["fd00:96::/64", "10.32.0.0/24"], ["fd00:96::1/64", "10.32.0.1/24"]),
        (["10.96.0.9"], ["10.96.0.0/24"], ["10.96.0.9/24"]),
        (["10.96.0.9", "10.96.0.9/24"], [], ["10.96.0.9/24", "fd00:32::1/64"]),
    ],
)
async def test_what_is_asked_for_is_given(
    host: Host, asked: list[str], ranges: list[str], given: list[str]
) -> None:
    request = AttachRequest("web", "eth0", "/ns/web", asked=tuple(asked), ranges=tuple(ranges))
    assert (await host.attacher.attach(request)).addresses == tuple(given)
    await host.attacher.detach("web")
    leased = await host.attacher.allocate("web", "eth0", asked, "net", ranges=ranges)
    assert leased == tuple(given)
    assert sorted(await host.attacher.release("web", "eth0")) == sorted(
        cidr.partition("/")[0] for cidr in given
    )
    assert host.held == []


@pytest.mark.parametrize(
    ("asked", "ranges", "reason"),
    [
        (["192.0.2.1"], [], "address-outside-range"),
        (["x"], [], "bad-address"),
        (["10.32.0.1", "10.32.0.2"], [], "too-many-addresses"),
        (["10.32.0.1"], ["10.96.0.0/24"], "address-outside-range"),
        ([], ["192.0.2.0/24"], "unknown-range"),
        ([], ["x"], "bad-range"),
        ([], ["10.32.0.0/12"], "unknown-range"),
    ],
)
async def test_what_cannot_be_given_leaves_nothing(
    host: Host, asked: list[str], ranges: list[str], reason: str
) -> None:
    request = AttachRequest("web", "eth0", "/ns/web", asked=tuple(asked), ranges=tuple(ranges))
    with pytest.raises(OperatorError) as caught:
        await host.attacher.attach(request)
    assert caught.value.reason == reason
    with pytest.raises(OperatorError):
        await host.attacher.allocate("web", "eth0", asked, "net", ranges=ranges)
    assert (host.held, host.attacher.rows(), host.attacher.leases()) == ([], [], set())


async def test_when_one_family_has_nothing_left_the_pod_has_nothing(host: Host) -> None:
    def empty() -> None:
        raise OperatorError("nothing left", "no-space")

    host.twins[2].before = empty
    for attempt in (
        host.attacher.attach(WEB),
        host.attacher.allocate("web", "eth0", (), "net"),
        host.attacher.expose(),
    ):
        with pytest.raises(OperatorError) as caught:
            await attempt
        assert caught.value.reason == "no-space"
        assert host.held == []
    assert host.attacher.leases() == set()
    assert not host.network.pairs


async def test_what_a_key_had_before_a_refusal_it_keeps(host: Host) -> None:
    given = await host.attacher.allocate("web", "eth0", (), "net")

    def refuse() -> None:
        raise OperatorError("no", "key-in-use")

    host.twins[2].before = refuse
    with pytest.raises(OperatorError):
        await host.attacher.allocate("web", "eth0", ["fd00:32::9"], "net")
    assert host.held == sorted(cidr.partition("/")[0] for cidr in given)


async def test_the_bridge_has_an_address_of_every_range_and_of_new_ones(host: Host) -> None:
    exposed = await host.attacher.expose(["10.32.0.7"])
    assert exposed == ("10.32.0.7/24", "10.96.0.1/24", "fd00:32::1/64", "fd00:96::1/64")
    assert host.network.bridge_addresses == exposed
    assert await host.attacher.expose() == exposed
    assert await host.attacher.expose(["fd00:32::1"]) == exposed
    host.restart()
    await host.attacher.reconcile()
    assert host.attacher.exposed == exposed
    new = IpamTwin(AddressRange.parse("fd00:97::/64"))
    host.attacher.pools.add(Pool(new.range, new))
    assert await host.attacher.expose() == (*exposed, "fd00:97::1/64")
    assert len(await host.attacher.hide()) == 5
    assert not host.network.bridge_addresses
    assert host.held == []


def call(**config: object) -> Call:
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "web",
        "CNI_NETNS": "/ns/web",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/",
        "CNI_ARGS": str(config.pop("args", "")),
        "PLUGIN": str(config.pop("plugin", "weaver-net")),
    }
    whole = {"cniVersion": "1.1.0", "name": "net", "type": "weaver-net", **config}
    return parse(environ, json.dumps(whole).encode())


def handler(host: Host) -> Handler:
    return Handler(host.attacher, lambda: None, lambda: None)


async def test_a_default_route_of_each_family(host: Host) -> None:
    said = await handler(host)._answer(call(isDefaultGateway=True))
    assert said is not None
    bridge = {cidr.partition("/")[0] for cidr in host.attacher.exposed}
    assert [ip["address"] for ip in said["ips"]] == ["10.32.0.2/24", "fd00:32::2/64"]
    gateways = [ip["gateway"] for ip in said["ips"]]
    assert gateways == ["10.32.0.1", "fd00:32::1"]
    assert set(gateways) <= bridge
    assert said["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.32.0.1"},
        {"dst": "::/0", "gw": "fd00:32::1"},
    ]


@pytest.mark.parametrize(
    ("config", "routes"),
    [
        ({}, []),
        (
            {"ipam": {"ranges": ["10.96.0.0/24"]}, "isDefaultGateway": True},
            [("0.0.0.0/0", "10.96.0.1")],
        ),
        (
            {"ipam": {"gateway": "fd00:32::77"}, "isDefaultGateway": True},
            [("0.0.0.0/0", "10.32.0.1"), ("::/0", "fd00:32::77")],
        ),
        ({"ipam": {"gateway": "10.32.0.77"}}, [("0.0.0.0/0", "10.32.0.77")]),
        (
            {"ipam": {"routes": [{"dst": "fd99::/64"}]}, "isDefaultGateway": False},
            [("fd99::/64", "fd00:32::1")],
        ),
        (
            {"ipam": {"routes": [{"dst": "::/0", "gw": "fd00:32::9"}]}, "isDefaultGateway": True},
            [("::/0", "fd00:32::9"), ("0.0.0.0/0", "10.32.0.1")],
        ),
    ],
)
async def test_routes_and_gateways(
    host: Host, config: dict[str, object], routes: list[tuple[str, str]]
) -> None:
    said = await handler(host)._answer(call(**config))
    assert said is not None
    assert [(r["dst"], r["gw"]) for r in said["routes"]] == routes


async def test_the_ipam_plugin_gives_both(host: Host) -> None:
    said = await handler(host)._answer(call(plugin="weaver-ipam", args="IP=fd00:32::5"))
    assert said is not None
    assert [ip["address"] for ip in said["ips"]] == ["10.32.0.1/24", "fd00:32::5/64"]
    assert "interfaces" not in said


async def test_mode_host_has_an_address_of_every_range(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives them all back with the last that asked."""
    monkeypatch.setattr(hostmode, "_demand_own_namespace", lambda netns: None)
    monkeypatch.setattr(hostmode, "_is_here", lambda address: True)
    asked = call(mode="host", args="IP=10.32.0.9,fd00:32::9")
    said = await handler(host)._answer(asked)
    assert said is not None
    given = [ip["address"] for ip in said["ips"]]
    assert given == ["10.32.0.9/24", "10.96.0.1/24", "fd00:32::9/64", "fd00:96::1/64"]
    assert said["interfaces"] == [{"name": "weave"}]
    assert list(host.network.bridge_addresses) == given
    hostmode.check(host.attacher, asked, said)
    with pytest.raises(CniError):
        hostmode.check(host.attacher, asked, {"ips": []})
    await host.attacher.holders.drop(("web", "eth0"))
    assert host.held == []
    assert not host.network.bridge_addresses


async def test_ipv6_needs_an_mtu_that_the_kernel_has_it_with(host: Host) -> None:
    small = AttachRequest("web", "eth0", "/ns/web", mtu=1279)
    with pytest.raises(OperatorError) as caught:
        await host.attacher.attach(small)
    assert caught.value.reason == "bad-mtu"
    assert (host.held, host.attacher.rows()) == ([], [])
    only = AttachRequest("web", "eth0", "/ns/web", mtu=1279, ranges=("10.32.0.0/24",))
    assert (await host.attacher.attach(only)).addresses == ("10.32.0.1/24",)
