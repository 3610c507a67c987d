"""What dockerd says to remote drivers (libnetwork), checked; and the pure part of the answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from typing import Any

from mesh.errors import OperatorError

Json = dict[str, Any]

SPACE = "weaver"
"""The address space, and the pool of every network: there is one range in a mesh."""

GATEWAY_REQUEST = "com.docker.network.gateway"
GENERIC = "com.docker.network.generic"
MTU = "com.docker.network.driver.mtu"

MAX_BODY = 1 << 20
MAX_NAME = 128
"""Characters of an id; Docker's have 64."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on a network. ``address`` as CIDR; no ``mac``: it is ours to choose."""

    network: str
    endpoint: str
    address: str
    mac: str | None


def read(data: bytes) -> Json:
    """A request's body. Raises OperatorError "bad-request"."""
    try:
        body = json.loads(data) if data else {}
    except (ValueError, RecursionError) as err:
        raise OperatorError("the body is not JSON", "bad-request") from err
    if not isinstance(body, dict):
        raise OperatorError("the body is not a JSON object", "bad-request")
    return body


def name(body: Json, key: str) -> str:
    """An id that Docker made. Raises OperatorError "bad-request"."""
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isalnum():
        raise OperatorError(f"{key} is no id: {value!r}", "bad-request")
    return value


def text(body: Json, key: str) -> str:
    """A text, empty where there is none."""
    value = body.get(key) or ""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise OperatorError(f"{key} is not a text", "bad-request")
    return value


def section(body: Json, key: str) -> Json:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise OperatorError(f"{key} is not an object", "bad-request")
    return value


def endpoint(body: Json) -> Endpoint:
    """CreateEndpoint. Raises OperatorError."""
    interface = section(body, "Interface")
    given = text(interface, "Address")
    if not given:
        raise OperatorError("an endpoint without an address: use --ipam-driver", "bad-request")
    try:
        address = str(ip_interface(given))
    except ValueError as err:
        raise OperatorError(f"not an address: {given!r}", "bad-request") from err
    mac = text(interface, "MacAddress") or None
    return Endpoint(name(body, "NetworkID"), name(body, "EndpointID"), address, mac)


def check_network(body: Json, range: str) -> None:
    """CreateNetwork: addresses of others would be given out twice. Raises OperatorError."""
    pools = body.get("IPv4Data") or []
    if not isinstance(pools, list) or not all(isinstance(pool, dict) for pool in pools):
        raise OperatorError("IPv4Data is not a list of pools", "bad-request")
    spaces = {text(pool, "AddressSpace") for pool in pools}
    ranges = {text(pool, "Pool") for pool in pools}
    if spaces != {SPACE} or ranges != {range}:
        raise OperatorError(
            f"a network of weaver has the mesh's addresses, {range}: add --ipam-driver weaver",
            "foreign-addresses",
        )
    if body.get("IPv6Data"):
        raise OperatorError("a network of weaver has one range", "foreign-addresses")


def check_pool(body: Json, range: str) -> None:
    """RequestPool: any, or the mesh's range by name. Raises OperatorError."""
    wanted = text(body, "Pool")
    if body.get("V6") or text(body, "SubPool"):
        raise OperatorError(f"the mesh has one range, {range}", "foreign-addresses")
    try:
        fits = not wanted or ip_network(wanted) == ip_network(range)
    except ValueError as err:
        raise OperatorError(f"not a range: {wanted!r}", "bad-request") from err
    if not fits:
        raise OperatorError(f"the mesh has {range}, not {wanted}", "foreign-addresses")


def mac_of(address: str) -> str:
    """The MAC of an address: the same wherever the container starts next."""
    octets = ip_interface(address).ip.packed[-4:]
    return "02:77:" + octets.hex(":")
