"""What the host's routes and devices carry: the MTU of the way to an address.

A few requests of route netlink, beside those of ``mesh.drivers.fastdp.rtnl``. Layouts:
linux/rtnetlink.h (struct rtmsg, RTA_*, RTAX_MTU, struct rta_cacheinfo).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from mesh.drivers.fastdp.rtnl import Rtnl, attribute, attributes
from mesh.errors import OperatorError

GET_ROUTE = 26
RTA_DST, RTA_OIF, RTA_METRICS, RTA_CACHEINFO = 1, 4, 8, 12
RTAX_MTU = 2
ROUTE = struct.Struct("=BBBBBBBBI")
EXPIRES_AT = 8
LOOPBACK = 1

ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses nobody has (RFC 5737, RFC 3849): the way to them is the default one."""


class Underlay:
    """Of the network namespace this process is in when it is made."""

    def __init__(self) -> None:
        try:
            self._rtnl = Rtnl()
        except OSError as err:
            raise OperatorError(f"no netlink: {err.strerror}", "kernel-refused") from err

    def mtu_towards(self, host: str) -> int | None:
        """Of the device and the route by which packets leave for an address, IPv4 or IPv6 as text.

        None where there is no way, and for addresses of our own. What the kernel learned of a path
        for a while does not count: that is the path's, and is searched for elsewhere.
        """
        try:
            address = ip_address(host)
        except ValueError:
            return None
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        try:
            answer = self._rtnl.ask(GET_ROUTE, 0, body + attribute(RTA_DST, address.packed))[0]
            found = dict(attributes(answer, ROUTE.size))
            index = struct.unpack("=I", found[RTA_OIF])[0]
            mtu = self._rtnl.mtu_of(index)
        except (OSError, KeyError, IndexError):
            return None
        if index == LOOPBACK:
            return None
        cache = found.get(RTA_CACHEINFO, bytes(EXPIRES_AT + 4))
        metrics = dict(attributes(found.get(RTA_METRICS, b"")))
        if struct.unpack_from("=i", cache, EXPIRES_AT)[0] == 0 and RTAX_MTU in metrics:
            return min(mtu, int(struct.unpack("=I", metrics[RTAX_MTU])[0]) or mtu)
        return mtu

    def default_mtu(self) -> tuple[str, int] | None:
        """Of the way to addresses nobody has: an address as the other end's, and the MTU."""
        found = ((host, self.mtu_towards(host)) for host in ANYWHERE)
        return next(((host, mtu) for host, mtu in found if mtu is not None), None)

    def close(self) -> None:
        self._rtnl.close()
