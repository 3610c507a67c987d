"""Docker's plugin on its real socket, between twins: what dockerd says, in and out of order, and
what it never would."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ipam.address import Address
from tests.unit.network_twin import RANGE, IpamTwin, NetworkTwin, pools
from weaver.daemon.attach import Attacher
from weaver.daemon.attach_store import AttachmentStore
from weaver.docker.driver import Driver
from weaver.docker.server import DockerServer

NETWORK, ENDPOINT = "a" * 64, "b" * 64
POOL = {"AddressSpace": "weaver", "Pool": str(RANGE)}


class Host:
    """A plugin that listens; ``restart`` is kill -9 and a new start on the same file."""

    def __init__(self, directory: Path) -> None:
        self.socket, self._file = directory / "plugins" / "weaver.sock", directory / "a.db"
        self.network, self.ipam = NetworkTwin({"": set()}), IpamTwin()
        self.reason: str | None = None

    async def start(self) -> None:
        self.attacher = Attacher(pools(self.ipam), self.network, AttachmentStore(self._file), 1400)
        self._server = DockerServer(Driver(self.attacher, RANGE, self._holder, lambda: self.reason))
        await self._server.start(self.socket)
        self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket)))

    def _holder(self, number: int) -> Any:
        return next((key for key, held in self.ipam.held.items() if held == number), None)

    async def stop(self) -> None:
        await self._http.close()
        await self._server.close()

    async def raw(self, method: str, body: bytes) -> tuple[int, dict[str, Any]]:
        data = io.BytesIO(body)
        async with self._http.post(f"http://plugin/{method}", data=data) as answer:
            return answer.status, await answer.json(content_type=None)

    async def ask(self, method: str, **body: Any) -> dict[str, Any]:
        status, said = await self.raw(method, json.dumps(body).encode())
        assert status == 200, said
        assert "Err" not in said
        return said

    async def refused(self, method: str, **body: Any) -> str:
        status, said = await self.raw(method, json.dumps(body).encode())
        assert status == 400, said
        return str(said["Err"])

    async def endpoint(self, endpoint: str = ENDPOINT) -> str:
        """As dockerd makes one; its address."""
        address = (await self.ask("IpamDriver.RequestAddress", PoolID="weaver"))["Address"]
        await self.ask(
            "NetworkDriver.CreateEndpoint",
            NetworkID=NETWORK,
            EndpointID=endpoint,
            Interface={"Address": address},
        )
        return str(address)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_a_network_and_a_container_from_beginning_to_end(host: Host) -> None:
    assert (await host.ask("Plugin.Activate"))["Implements"] == ["NetworkDriver", "IpamDriver"]
    assert (await host.ask("NetworkDriver.GetCapabilities"))["Scope"] == "local"
    assert not (await host.ask("IpamDriver.GetCapabilities"))["RequiresMACAddress"]
    assert (await host.ask("IpamDriver.GetDefaultAddressSpaces"))["LocalDefaultAddressSpace"]
    pool = await host.ask("IpamDriver.RequestPool", AddressSpace="weaver", Pool="", V6=False)
    assert pool["Pool"] == str(RANGE)
    await host.ask("NetworkDriver.CreateNetwork", NetworkID=NETWORK, IPv4Data=[POOL])
    address = await host.endpoint()
    known = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
    joined = await host.ask("NetworkDriver.Join", **known, SandboxKey="/var/run/docker/x")
    (pair,) = host.network.pairs.values()
    assert joined["InterfaceName"] == {"SrcName": "vp" + pair.host[2:], "DstPrefix": "eth"}
    assert pair.addresses == (address,)
    for method in ("EndpointOperInfo", "ProgramExternalConnectivity", "Leave", "DeleteEndpoint"):
        await host.ask(f"NetworkDriver.{method}", **known)
    await host.ask("IpamDriver.ReleaseAddress", PoolID="weaver", Address=address)
    await host.ask("NetworkDriver.DeleteNetwork", NetworkID=NETWORK)
    await host.ask("IpamDriver.ReleasePool", PoolID="weaver")
    assert (host.network.pairs, host.ipam.held, host.attacher.list()) == ({}, {}, [])


async def test_everything_is_remembered_over_a_restart(host: Host) -> None:
    address = await host.endpoint()
    await host.stop()
    await host.start()
    known = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
    await host.ask("NetworkDriver.Join", **known)
    await host.ask("NetworkDriver.DeleteEndpoint", **known)
    await host.ask("IpamDriver.ReleaseAddress", Address=address)
    assert (host.network.pairs, host.ipam.held) == ({}, {})


async def test_what_is_said_twice_or_late_does_no_harm(host: Host) -> None:
    address = await host.endpoint()
    known = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
    for _ in range(2):
        await host.ask("NetworkDriver.Join", **known)
    for _ in range(2):
        await host.ask("NetworkDriver.Leave", **known)
        await host.ask("NetworkDriver.DeleteEndpoint", **known)
        await host.ask("IpamDriver.ReleaseAddress", Address=address)
    assert "not-attached" in await host.refused("NetworkDriver.Join", **known)
    assert (host.network.pairs, host.ipam.held) == ({}, {})


async def test_an_address_of_somebody_else_is_not_released(host: Host) -> None:
    (mine,) = await host.attacher.allocate("pod", "eth0")
    await host.ask("IpamDriver.ReleaseAddress", Address=mine)
    assert list(host.ipam.held.values()) == [Address(RANGE.number(mine))]
    said = await host.refused("IpamDriver.RequestAddress", Address=mine.partition("/")[0])
    assert "address-in-use" in said


async def test_a_failure_leaves_nothing(host: Host) -> None:
    host.reason = "no-worker"
    assert "no-worker" in await host.refused("IpamDriver.RequestAddress")
    host.reason = None
    address = (await host.ask("IpamDriver.RequestAddress"))["Address"]
    del host.network.namespaces[""]  # the kernel refuses
    await host.refused(
        "NetworkDriver.CreateEndpoint",
        NetworkID=NETWORK,
        EndpointID=ENDPOINT,
        Interface={"Address": address},
    )
    assert (host.network.pairs, host.attacher.list()) == ({}, [])
    await host.ask("IpamDriver.ReleaseAddress", Address=address)
    assert host.ipam.held == {}


async def test_many_at_once_have_addresses_of_their_own(host: Host) -> None:
    addresses = await asyncio.gather(*(host.endpoint(f"{n:064d}") for n in range(20)))
    assert len({*addresses}) == len(host.network.pairs) == 20


NOT_NETWORKS: tuple[dict[str, Any], ...] = (
    {},
    {"IPv4Data": 1},
    {"IPv4Data": [1]},
    {"IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": str(RANGE)}]},
    {"IPv4Data": [{**POOL, "Pool": "10.95.0.0/24"}]},
    {"IPv4Data": [{**POOL, "Pool": 7}]},
    {"IPv4Data": [POOL], "IPv6Data": [{"Pool": "fd00::/64"}]},
)
NOT_POOLS: tuple[dict[str, Any], ...] = (
    {"Pool": "10.95.0.0/24"},
    {"Pool": "x"},
    {"Pool": 7},
    {"V6": True},
    {"SubPool": "10.32.0.128/25"},
)
NOT_ENDPOINTS: tuple[dict[str, Any], ...] = (
    {},
    {"EndpointID": 7},
    {"EndpointID": ""},
    {"EndpointID": "../x"},
    {"EndpointID": "x" * 200},
    {"NetworkID": None},
    {"Interface": 7},
    {"Interface": {}},
    {"Interface": {"Address": "x"}},
    {"Interface": {"Address": 7}},
    {"Interface": {"Address": "192.0.2.1/24"}},
    {"Interface": {"Address": "10.32.0.9/24", "MacAddress": "zz"}},
    {"Interface": {"Address": "10.32.0.9/24", "MacAddress": "01:00:00:00:00:01"}},
    {"Interface": {"Address": "10.32.0.9/24", "MacAddress": 7}},
)
GOOD_ENDPOINT = {
    "NetworkID": NETWORK,
    "EndpointID": ENDPOINT,
    "Interface": {"Address": "10.32.0.9/24"},
}


@pytest.mark.parametrize(
    ("method", "body"),
    [
        *[("NetworkDriver.CreateNetwork", {"NetworkID": NETWORK, **w}) for w in NOT_NETWORKS],
        *[("IpamDriver.RequestPool", wrong) for wrong in NOT_POOLS],
        *[("NetworkDriver.CreateEndpoint", w and {**GOOD_ENDPOINT, **w}) for w in NOT_ENDPOINTS],
        *[("IpamDriver.RequestAddress", {"Address": w}) for w in ("x", 7, "192.0.2.1", [1])],
        *[("IpamDriver.ReleaseAddress", {"Address": w}) for w in ("x", 7, "", "192.0.2.1")],
        ("NetworkDriver.Join", {}),
        ("NetworkDriver.Join", {"EndpointID": ENDPOINT}),
        ("NetworkDriver.DeleteEndpoint", {"EndpointID": [1]}),
        ("No.SuchThing", {}),
    ],
)  # fmt: skip
async def test_nonsense_is_refused_and_changes_nothing(
    host: Host, method: str, body: dict[str, Any]
) -> None:
    assert await host.refused(method, **body)
    assert (host.network.pairs, host.ipam.held, host.attacher.list()) == ({}, {}, [])
    await host.endpoint()


@pytest.mark.parametrize("body", [b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b"x" * (2 << 20)])
async def test_bodies_that_are_none(host: Host, body: bytes) -> None:
    for method in ("NetworkDriver.Join", "IpamDriver.RequestAddress", "Plugin.Activate"):
        status, said = await host.raw(method, body)
        assert (status, bool(said["Err"])) == (400, True)
    await host.endpoint()
