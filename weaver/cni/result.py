"""Results, as each version of the specification wants them (SPEC.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

from weaver.cni.config import Json, Route, read_routes
from weaver.cni.errors import CniError, Code
from weaver.daemon.attach_store import Attachment

BEFORE_1_0 = ("0.3.1", "0.4.0")
"""Versions whose ``ips`` say their family."""

SINCE_1_1 = ("1.1.0",)
"""Versions whose ``interfaces`` may say their MTU."""


@dataclass(frozen=True, slots=True)
class Delegated:
    """What another IPAM plugin gave. A route without a gateway has the address's."""

    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    routes: tuple[Route, ...]
    dns: Json


def read_delegated(said: Json) -> Delegated:
    """Check the result of another IPAM plugin. Raises CniError."""
    addresses: list[str] = []
    gateways: dict[int, str] = {}
    try:
        for entry in said.get("ips") or ():
            address = ip_interface(entry["address"])
            addresses.append(str(address))
            if entry.get("gateway"):
                gateways.setdefault(address.version, str(ip_interface(entry["gateway"]).ip))
    except (TypeError, AttributeError, KeyError, ValueError) as err:
        raise CniError(Code.DELEGATE, "the IPAM plugin's ips are wrong", str(err)[:200]) from err
    if not addresses:
        raise CniError(Code.DELEGATE, "the IPAM plugin gave no address")
    routes = tuple(
        (destination, gateway or gateways.get(6 if ":" in destination else 4))
        for destination, gateway in read_routes(said.get("routes"), Code.DELEGATE, "routes")
    )
    dns = said.get("dns")
    found = tuple(gateways.values())
    return Delegated(tuple(addresses), found, routes, dns if isinstance(dns, dict) else {})


def added(version: str, row: Attachment, dns: Json, previous: Json | None = None) -> Json:
    """The result of ADD: both ends, addresses, routes, behind what earlier plugins made."""
    host: Json = {"name": row.host, "mac": row.host_mac or ""}
    pod: Json = {"name": row.ifname, "mac": row.mac or "", "sandbox": row.netns}
    if version in SINCE_1_1:
        pod["mtu"] = row.mtu
    before = previous or {}
    interfaces = [*(before.get("interfaces") or ()), host, pod]
    ips = [_ip(version, cidr, row.gateways, len(interfaces) - 1) for cidr in row.addresses]
    return {
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": [*(before.get("ips") or ()), *ips],
        "routes": [*(before.get("routes") or ()), *_routes(row.routes)],
        "dns": before.get("dns") or dns,
    }


def exposed(
    version: str, bridge: str, addresses: Sequence[str], previous: Json | None = None
) -> Json:
    """The result of ADD in mode host: the bridge, which is in no sandbox."""
    before = previous or {}
    interfaces = [*(before.get("interfaces") or ()), {"name": bridge}]
    ips = [_ip(version, cidr, (), len(interfaces) - 1) for cidr in addresses]
    return {
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": [*(before.get("ips") or ()), *ips],
        "routes": before.get("routes") or [],
        "dns": before.get("dns") or {},
    }


def addressed(
    version: str, addresses: Sequence[str], gateways: Sequence[str], routes: Sequence[Route]
) -> Json:
    """The result of an IPAM plugin: no interfaces."""
    return {
        "cniVersion": version,
        "ips": [_ip(version, cidr, gateways, None) for cidr in addresses],
        "routes": _routes(routes),
        "dns": {},
    }


def failed(version: str, err: CniError) -> Json:
    result = {"cniVersion": version, "code": err.code, "msg": str(err)}
    return result | ({"details": err.details} if err.details else {})


def _ip(version: str, cidr: str, gateways: Sequence[str], interface: int | None) -> Json:
    entry: Json = {"address": cidr}
    family = ":" in cidr
    if version in BEFORE_1_0:
        entry["version"] = "6" if family else "4"
    fitting = [gateway for gateway in gateways if (":" in gateway) == family]
    if fitting:
        network = ip_interface(cidr).network
        near = [gateway for gateway in fitting if ip_address(gateway) in network]
        entry["gateway"] = (near or fitting)[0]
    if interface is not None:
        entry["interface"] = interface
    return entry


def _routes(routes: Sequence[Route]) -> list[Json]:
    return [{"dst": dst} | ({"gw": gateway} if gateway else {}) for dst, gateway in routes]
