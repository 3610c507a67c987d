"""The kernel's network devices, through pyroute2: the only module that imports it.

It is slow to import (a quarter of a second) and untyped, so it runs in a helper process and is
wrapped in a few plain functions. Errors are OSError with the kernel's own number.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def _checked(call: Callable[[], T], what: str) -> T:
    try:
        return call()
    except NetlinkError as err:
        raise OSError(err.code, f"{what}: {os.strerror(err.code)}") from err


class Netlink:
    """Links, addresses and routes of the namespace that this process is in."""

    def __init__(self) -> None:
        self._ipr: Any = IPRoute()

    def close(self) -> None:
        self._ipr.close()

    def index(self, name: str) -> int | None:
        found = self._ipr.link_lookup(ifname=name)
        return found[0] if found else None

    def link(self, name: str) -> dict[str, Any] | None:
        """What there is to say of a device: index, mtu, mac, master index, whether it is up."""
        index = self.index(name)
        if index is None:
            return None
        got = _checked(lambda: self._ipr.get_links(index), f"read {name}")[0]
        return {
            "index": index,
            "mtu": got.get_attr("IFLA_MTU"),
            "mac": got.get_attr("IFLA_ADDRESS"),
            "master": got.get_attr("IFLA_MASTER"),
            "up": bool(got["flags"] & 1),
        }

    def ensure_bridge(self, name: str, mtu: int, mac: str) -> None:
        """A bridge that forwards everything and remembers nothing it should not."""
        if self.index(name) is None:
            _checked(
                lambda: self._ipr.link(
                    "add", ifname=name, kind="bridge", br_stp_state=0, br_mcast_snooping=0
                ),
                f"add bridge {name}",
            )
        index = self.index(name)
        _checked(
            lambda: self._ipr.link("set", index=index, address=mac, mtu=mtu, state="up"),
            f"set up {name}",
        )

    def enslave(self, name: str, bridge: str, mtu: int) -> None:
        index, master = self.index(name), self.index(bridge)
        _checked(
            lambda: self._ipr.link("set", index=index, master=master, mtu=mtu, state="up"),
            f"put {name} on {bridge}",
        )

    def add_veth(self, host: str, host_mtu: int, peer: str, namespace_fd: int, mtu: int) -> None:
        """A pair whose other end is born inside the namespace, under its final name."""
        _checked(
            lambda: self._ipr.link(
                "add",
                ifname=host,
                kind="veth",
                mtu=host_mtu,
                peer={"ifname": peer, "net_ns_fd": namespace_fd, "mtu": mtu},
            ),
            f"add {peer}",
        )

    def delete(self, name: str) -> bool:
        """Whether there was something to delete."""
        index = self.index(name)
        if index is None:
            return False
        _checked(lambda: self._ipr.link("del", index=index), f"delete {name}")
        return True

    def set_up(self, name: str, *, mac: str | None = None, mtu: int | None = None) -> None:
        index = self.index(name)
        wanted: dict[str, Any] = {"state": "up"}
        if mac is not None:
            wanted["address"] = mac
        if mtu is not None:
            wanted["mtu"] = mtu
        _checked(lambda: self._ipr.link("set", index=index, **wanted), f"set up {name}")

    def add_address(self, name: str, address: str, prefix: int) -> None:
        index = self.index(name)
        extra: dict[str, Any] = {}
        if ":" in address:
            extra["flags"] = 0x02  # IFA_F_NODAD: the allocator has detected duplicates already
        try:
            self._ipr.addr("add", index=index, address=address, prefixlen=prefix, **extra)
        except NetlinkError as err:
            if err.code != 17:  # EEXIST: it has it, which is what was wanted
                raise OSError(err.code, f"address of {name}: {os.strerror(err.code)}") from err

    def delete_address(self, name: str, address: str, prefix: int) -> None:
        index = self.index(name)
        if index is None:
            return
        try:
            self._ipr.addr("del", index=index, address=address, prefixlen=prefix)
        except NetlinkError as err:
            if err.code != 99:  # EADDRNOTAVAIL
                raise OSError(err.code, f"address of {name}: {os.strerror(err.code)}") from err

    def addresses(self, name: str) -> list[str]:
        index = self.index(name)
        if index is None:
            return []
        got = _checked(lambda: list(self._ipr.get_addr(index=index)), f"read {name}")
        return [f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}" for a in got]

    def add_route(self, destination: str, gateway: str | None, name: str) -> None:
        index = self.index(name)
        family = 10 if ":" in destination else 2
        wanted: dict[str, Any] = {"dst": destination, "oif": index, "family": family}
        if gateway is not None:
            wanted["gateway"] = gateway
        _checked(lambda: self._ipr.route("replace", **wanted), f"route {destination}")

    def routes(self, name: str) -> list[tuple[str, str | None]]:
        """(destination, gateway) of the routes through a device; the default as 0.0.0.0/0."""
        index = self.index(name)
        found = []
        for family, default in ((2, "0.0.0.0"), (10, "::")):  # noqa: S104  # the default route
            for route in self._ipr.get_routes(family=family, oif=index, table=254):
                dst = route.get_attr("RTA_DST") or default
                found.append((f"{dst}/{route['dst_len']}", route.get_attr("RTA_GATEWAY")))
        return found


def enter_namespace(fd: int) -> None:
    """Move this process, which must have no other thread, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"not a network namespace: {os.strerror(error)}")
