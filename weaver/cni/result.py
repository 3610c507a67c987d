"""Results, as each version of the specification wants them."""

from __future__ import annotations

from typing import Any

from weaver.cni.errors import CniError
from weaver.daemon.attach import Attachment


def _ip(version: str, cidr: str, gateway: str | None, interface: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"address": cidr}
    if version in ("0.3.1", "0.4.0"):
        entry["version"] = "6" if ":" in cidr else "4"
    if gateway is not None:
        entry["gateway"] = gateway
    if interface is not None:
        entry["interface"] = interface
    return entry


def _routes(routes: tuple[tuple[str, str | None], ...]) -> list[dict[str, str]]:
    return [{"dst": dst} | ({"gw": via} if via else {}) for dst, via in routes]


def added(version: str, row: Attachment) -> dict[str, Any]:
    """The result of ADD: both ends, addresses, routes."""
    host: dict[str, Any] = {"name": row.host, "mac": row.host_mac or ""}
    pod: dict[str, Any] = {"name": row.ifname, "mac": row.mac or "", "sandbox": row.netns}
    if version == "1.1.0":
        pod["mtu"] = row.mtu
    return {
        "cniVersion": version,
        "interfaces": [host, pod],
        "ips": [_ip(version, cidr, row.gateway, 1) for cidr in row.addresses],
        "routes": _routes(row.routes),
        "dns": {},
    }


def addressed(version: str, cidr: str, gateway: str | None) -> dict[str, Any]:
    """The result of an IPAM plugin: no interfaces."""
    return {
        "cniVersion": version,
        "ips": [_ip(version, cidr, gateway, None)],
        "routes": [],
        "dns": {},
    }


def failed(version: str, err: CniError) -> dict[str, Any]:
    result = {"cniVersion": version, "code": int(err.code), "msg": str(err)}
    return result | ({"details": err.details} if err.details else {})
