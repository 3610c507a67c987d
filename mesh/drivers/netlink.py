"""The kernel's network devices, through pyroute2: the only module that imports it.

It is slow to import (a quarter of a second) and untyped, so it runs in a helper process and is
wrapped in a few plain functions. Errors are OSError with the kernel's own number.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
IFF_UP = 1
IFA_F_NODAD = 0x02
"""No duplicate address detection: the allocator gave the address to nobody else."""

RT_TABLE_MAIN = 254
DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}
FAMILIES = {4: 2, 6: 10}
TC_H_ROOT = 0xFFFFFFFF
TBF_HANDLE = 0x77650000
SHAPE_LATENCY = "50ms"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Link:
    """What there is to say of a device; ``master`` is the index of its bridge, if any."""

    index: int
    mtu: int
    mac: str
    master: int | None
    is_up: bool


@dataclass(frozen=True, slots=True)
class Veth:
    """A pair: the host's end under its name, the pod's end under its own, each with its MTU."""

    host: str
    host_mtu: int
    pod: str
    pod_mtu: int


class Netlink:
    """Links, addresses and routes of the namespace this process is in when one is made.

    ``brief``: for the few calls of one request, in which no device changes its number.
    """

    def __init__(self, *, brief: bool = False) -> None:
        self._ipr: Any = IPRoute()
        self._numbers: dict[str, int] | None = {} if brief else None

    def close(self) -> None:
        self._ipr.close()

    def link(self, name: str) -> Link | None:
        try:
            got = self._ipr.link("get", ifname=name)[0]
        except NetlinkError as err:
            if err.code == errno.ENODEV:
                return None
            raise _named(err, f"read {name}") from err
        if self._numbers is not None:
            self._numbers[name] = got["index"]
        return Link(
            index=got["index"],
            mtu=got.get_attr("IFLA_MTU"),
            mac=got.get_attr("IFLA_ADDRESS"),
            master=got.get_attr("IFLA_MASTER"),
            is_up=bool(got["flags"] & IFF_UP),
        )

    def ensure_bridge(self, name: str, mtu: int, mac: str) -> None:
        """A bridge without spanning tree (its ports forward at once) and multicast snooping (the
        mesh behind it answers no IGMP queries, so what is multicast must be flooded)."""
        if self.link(name) is None:
            _checked(
                lambda: self._ipr.link(
                    "add", ifname=name, kind="bridge", br_stp_state=0, br_mcast_snooping=0
                ),
                f"add bridge {name}",
            )
        self._set(name, address=mac, mtu=mtu, state="up")

    def enslave(self, name: str, bridge: str, mtu: int) -> str:
        """Make a device a port, and run it; its MAC."""
        master, link = self._index(bridge), self.link(name)
        if link is None:
            raise OSError(errno.ENODEV, f"there is no device {name}")
        wanted = {"master": master, "mtu": mtu, "state": "up"}
        _checked(lambda: self._ipr.link("set", index=link.index, **wanted), f"set up {name}")
        return link.mac

    def release(self, name: str, bridge: str, mtu: int) -> None:
        """Up, and no port of this bridge. Nothing happens to a device that is none of its ports."""
        port, master = self.link(name), self.link(bridge)
        if port is not None and master is not None and port.master in (None, 0, master.index):
            self._set(name, master=0, mtu=mtu, state="up")

    def set_mtu(self, name: str, mtu: int) -> None:
        self._set(name, mtu=mtu)

    def set_hairpin(self, name: str) -> None:
        """Let a port of a bridge hear again what came from it."""
        index = self._index(name)
        _checked(lambda: self._ipr.brport("set", index=index, mode=1), f"hairpin of {name}")

    def shape(self, name: str, rate: int, burst: int) -> None:
        """Send no more than so many octets a second through a device, and so many at once; what
        waits longer than SHAPE_LATENCY is dropped. Again: as now said; 0: no bound."""
        index = self._index(name)
        if rate:
            wanted = {"rate": rate, "burst": burst, "latency": SHAPE_LATENCY}
            _checked(
                lambda: self._ipr.tc("replace", "tbf", index, handle=TBF_HANDLE, **wanted),
                f"shape {name}",
            )
            return
        try:
            self._ipr.tc("del", index=index, handle=TBF_HANDLE, parent=TC_H_ROOT)
        except NetlinkError as err:
            if err.code not in (errno.ENOENT, errno.EINVAL):  # there was none
                raise _named(err, f"shape {name}") from err

    def is_shaped(self, name: str) -> bool:
        index = self._index(name)
        kinds = _checked(
            lambda: [q.get_attr("TCA_KIND") for q in self._ipr.get_qdiscs(index=index)],
            f"read {name}",
        )
        return "tbf" in kinds

    def add_veth(self, veth: Veth, namespace_fd: int) -> None:
        """A pair whose other end is born inside the namespace, under its final name."""
        peer = {"ifname": veth.pod, "net_ns_fd": namespace_fd, "mtu": veth.pod_mtu}
        _checked(
            lambda: self._ipr.link(
                "add", ifname=veth.host, kind="veth", mtu=veth.host_mtu, peer=peer
            ),
            f"add {veth.pod}",
        )

    def delete(self, name: str) -> bool:
        """Whether there was something to delete."""
        try:
            self._ipr.link("del", ifname=name)
        except NetlinkError as err:
            if err.code == errno.ENODEV:
                return False
            raise _named(err, f"delete {name}") from err
        return True

    def set_up(self, name: str) -> None:
        self._set(name, state="up")

    def prepare(self, name: str, gso_max: int, mac: str | None, *, up: bool) -> None:
        """How large the TCP super-frames may be that a device is given, for IPv4 and IPv6; which
        MAC it has; whether it runs: in one call, for each takes the kernel a while."""
        more = {"address": mac} if mac else {}
        self._set(name, gso_max_size=gso_max, **more, **({"state": "up"} if up else {}))

    def add_address(self, name: str, address: str, prefix: int) -> None:
        index = self._index(name)
        extra = {"flags": IFA_F_NODAD} if ":" in address else {}
        try:
            self._ipr.addr("add", index=index, address=address, prefixlen=prefix, **extra)
        except NetlinkError as err:
            if err.code != errno.EEXIST:  # it has it, which is what was wanted
                raise _named(err, f"address {address} of {name}") from err

    def delete_address(self, name: str, address: str, prefix: int) -> None:
        link = self.link(name)
        if link is None:
            return
        try:
            self._ipr.addr("del", index=link.index, address=address, prefixlen=prefix)
        except NetlinkError as err:
            if err.code != errno.EADDRNOTAVAIL:
                raise _named(err, f"address {address} of {name}") from err

    def addresses(self, name: str) -> list[str]:
        """CIDR texts, none when there is no such device."""
        try:
            index = self._index(name)
        except OSError:
            return []
        got = _checked(lambda: list(self._ipr.get_addr(index=index)), f"read {name}")
        return [f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}" for a in got]

    def add_route(self, destination: str, gateway: str | None, name: str) -> None:
        wanted: dict[str, Any] = {
            "dst": destination,
            "oif": self._index(name),
            "family": 10 if ":" in destination else 2,
        }
        if gateway is not None:
            wanted["gateway"] = gateway
        _checked(lambda: self._ipr.route("replace", **wanted), f"route {destination}")

    def has_default(self, version: int, but: str) -> bool:
        """Whether there is a default route of an IP version through another device."""
        index = self._index(but)
        got = _checked(
            lambda: list(
                self._ipr.get_routes(family=FAMILIES[version], table=RT_TABLE_MAIN, dst_len=0)
            ),
            "read routes",
        )
        return any(r.get_attr("RTA_OIF") != index for r in got if r["dst_len"] == 0)

    def routes(self, name: str, versions: Iterable[int] = (4, 6)) -> list[tuple[str, str | None]]:
        """(destination, gateway) of the main table's routes through a device."""
        try:
            index = self._index(name)
        except OSError:
            return []
        found: list[tuple[str, str | None]] = []
        for version in versions:
            family = FAMILIES[version]
            got = _checked(
                lambda family=family: list(  # type: ignore[misc]  # mypy types no such lambda
                    self._ipr.get_routes(family=family, oif=index, table=RT_TABLE_MAIN)
                ),
                f"read routes of {name}",
            )
            for route in got:
                to = route.get_attr("RTA_DST")
                destination = DEFAULTS[version] if to is None else f"{to}/{route['dst_len']}"
                found.append((destination, route.get_attr("RTA_GATEWAY")))
        return found

    def _index(self, name: str) -> int:
        if self._numbers is not None and name in self._numbers:
            return self._numbers[name]
        link = self.link(name)
        if link is None:
            raise OSError(errno.ENODEV, f"there is no device {name}")
        return link.index

    def _set(self, name: str, **wanted: object) -> None:
        index = self._index(name)
        _checked(lambda: self._ipr.link("set", index=index, **wanted), f"set up {name}")


def is_network_namespace(fd: int) -> bool:
    """Whether an open file is one: not a regular file, nor a namespace of another kind."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def enter_namespace(fd: int) -> None:
    """Move this process, which must have no other thread, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the namespace: {os.strerror(error)}")


def _checked(call: Callable[[], T], what: str) -> T:
    try:
        return call()
    except NetlinkError as err:
        raise _named(err, what) from err


def _named(err: Any, what: str) -> OSError:  # noqa: ANN401  # pyroute2 is untyped
    return OSError(err.code, f"{what}: {os.strerror(err.code)}")
