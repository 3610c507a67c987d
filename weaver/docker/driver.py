"""Networks and addresses of Docker: one method a request, named as the plugin protocol names it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from ipam.address import AddressRange
from ipam.effects import AllocationKey
from mesh.errors import OperatorError
from weaver.daemon.attach import Attacher, AttachRequest, check_request, host_name
from weaver.docker import messages
from weaver.docker.messages import Json

LEASE = "docker"
"""The interface of an address that Docker asked for before there was an endpoint."""

INTERFACE = "docker"

Holder = Callable[[int], AllocationKey | None]
Reason = Callable[[], str | None]


class Driver:
    """``holder``: the key that an address was given to; ``not_ready``: why none can be, or None.

    Nothing is kept here: what an endpoint is, the attacher remembers, over restarts of either side.
    """

    def __init__(
        self, attacher: Attacher, range: AddressRange, holder: Holder, not_ready: Reason
    ) -> None:
        self._attacher, self._range = attacher, range
        self._holder, self._not_ready = holder, not_ready
        self.methods: dict[str, Callable[[Json], Awaitable[Json]]] = {
            "Plugin.Activate": self.activate,
            "NetworkDriver.GetCapabilities": self.capabilities,
            "NetworkDriver.CreateNetwork": self.create_network,
            "NetworkDriver.DeleteNetwork": self.nothing,
            "NetworkDriver.CreateEndpoint": self.create_endpoint,
            "NetworkDriver.DeleteEndpoint": self.delete_endpoint,
            "NetworkDriver.EndpointOperInfo": self.info,
            "NetworkDriver.Join": self.join,
            "NetworkDriver.Leave": self.nothing,
            "NetworkDriver.DiscoverNew": self.nothing,
            "NetworkDriver.DiscoverDelete": self.nothing,
            "NetworkDriver.ProgramExternalConnectivity": self.nothing,
            "NetworkDriver.RevokeExternalConnectivity": self.nothing,
            "IpamDriver.GetCapabilities": self.ipam_capabilities,
            "IpamDriver.GetDefaultAddressSpaces": self.spaces,
            "IpamDriver.RequestPool": self.request_pool,
            "IpamDriver.ReleasePool": self.nothing,
            "IpamDriver.RequestAddress": self.request_address,
            "IpamDriver.ReleaseAddress": self.release_address,
        }

    async def activate(self, _: Json) -> Json:
        return {"Implements": ["NetworkDriver", "IpamDriver"]}

    async def nothing(self, _: Json) -> Json:
        return {}

    # ---- networks

    async def capabilities(self, _: Json) -> Json:
        return {"Scope": "local", "ConnectivityScope": "global"}

    async def create_network(self, body: Json) -> Json:
        messages.check_network(body, str(self._range))
        return {}

    async def create_endpoint(self, body: Json) -> Json:
        """The pair is made at once, so that what Join needs is on disk when this is answered."""
        self._usable()
        asked = messages.endpoint(body)
        self._range.number(asked.address)
        mac = asked.mac or messages.mac_of(asked.address)
        request = AttachRequest(
            container=asked.endpoint,
            ifname=INTERFACE,
            netns="",
            mac=mac,
            addresses=(asked.address,),
            network=asked.network,
        )
        check_request(request)
        await self._attacher.attach(request)
        return {"Interface": {} if asked.mac else {"MacAddress": mac}}

    async def join(self, body: Json) -> Json:
        """dockerd takes the other end into the container, names it and gives it its address."""
        endpoint = messages.name(body, "EndpointID")
        row = self._attacher.get(endpoint, INTERFACE)
        if row is None:
            raise OperatorError(f"there is no endpoint {endpoint}", "not-attached")
        # Made anew: a container that left before may have taken the pair along.
        await self._attacher.attach(
            AttachRequest(
                container=endpoint,
                ifname=INTERFACE,
                netns="",
                mac=row.mac,
                addresses=row.addresses,
                network=row.network,
            )
        )
        return {"InterfaceName": {"SrcName": peer_name(endpoint), "DstPrefix": "eth"}}

    async def delete_endpoint(self, body: Json) -> Json:
        await self._attacher.detach(messages.name(body, "EndpointID"), INTERFACE)
        return {}

    async def info(self, _: Json) -> Json:
        return {"Value": {}}

    # ---- addresses

    async def ipam_capabilities(self, _: Json) -> Json:
        return {"RequiresMACAddress": False, "RequiresRequestReplay": False}

    async def spaces(self, _: Json) -> Json:
        space = messages.SPACE
        return {"LocalDefaultAddressSpace": space, "GlobalDefaultAddressSpace": space}

    async def request_pool(self, body: Json) -> Json:
        messages.check_pool(body, str(self._range))
        return {"PoolID": messages.SPACE, "Pool": str(self._range), "Data": {}}

    async def request_address(self, body: Json) -> Json:
        self._usable()
        wanted = messages.text(body, "Address") or None
        container = f"docker-{secrets.token_hex(8)}"
        (cidr,) = await self._attacher.allocate(
            container, LEASE, [wanted] if wanted else [], LEASE, ranges=[str(self._range)]
        )
        return {"Address": cidr, "Data": {}}

    async def release_address(self, body: Json) -> Json:
        """What is no address of Docker's is none of its business."""
        number = self._range.number(messages.text(body, "Address"))
        key = self._holder(number)
        if key is not None:
            await self._attacher.release(key.container, LEASE)
        return {}

    def _usable(self) -> None:
        if (reason := self._not_ready()) is not None:
            raise OperatorError(f"not ready: {reason}", reason)


def peer_name(endpoint: str) -> str:
    """The pod's end, as long as it lies in the host's namespace."""
    return "vp" + host_name(endpoint, INTERFACE)[2:]
