"""Hosts with the kernel's fast path and one pod each, in namespaces, in a row.

No daemon and no worker: tables are told by hand, frames are sent and heard as octets. See
``tests/datapath_rules.py`` for the picture.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

from bench.kernelnodes import KernelNode, KernelRow
from bench.nodes import inside, ip, run_in
from mesh.drivers.tap import open_tap
from mesh.link.datapath import Datapath, Upcall
from mesh.wire.sleeve import VNET_SIZE
from tests import datapath_rules as rules
from tests.netns.traffic import eventually

PACKET_OUTGOING, ETH_P_ALL = 4, 3
OURS = (b"\x88\xb6", b"\x08\x06", b"\x86\xdd", b"\x08\x00")
"""EtherTypes of what the rules send."""

VXLAN = struct.Struct("!II")
HAS_VNI = 0x08000000
PORT = 6784
DEADLINE = 5.0


class KernelHost(KernelNode):
    def __init__(self, tag: str, number: int) -> None:
        super().__init__(tag, number)
        run_in(self.pod, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        self.ear = inside(self.pod, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self.ear.bind(("eth0", ETH_P_ALL))
        self.ear.setblocking(False)
        self._sleeve: int | None = None
        self._forgers: dict[tuple[str, int], socket.socket] = {}

    @property
    def datapath(self) -> Datapath:
        return self.kernel

    def open_sleeve(self) -> None:
        self._sleeve = inside(self.namespace, lambda: open_tap("sleeve0"))
        ip("-n", self.namespace, "link", "set", "sleeve0", "addrgenmode", "none")
        ip("-n", self.namespace, "link", "set", "sleeve0", "up")
        self.kernel.set_sleeve("sleeve0")

    def restart(self) -> None:
        self.let_go()
        self.open()
        if self._sleeve is not None:
            self.kernel.set_sleeve("sleeve0")

    def remove(self) -> None:
        super().remove()
        if self._sleeve is not None:
            os.close(self._sleeve)
            self._sleeve = None
        for sock in self._forgers.values():
            sock.close()
        self._forgers.clear()
        ip("-n", self.namespace, "link", "set", "weave", "type", "bridge", "fdb_flush")
        while select.select([self.ear], [], [], 0)[0]:
            self.ear.recv(1 << 16)

    # --- frames

    def send(self, frame: bytes) -> None:
        self.ear.send(frame)

    def heard(self, count: int) -> list[bytes]:
        def read() -> bytes | None:
            data, (_, _, kind, *_) = self.ear.recvfrom(1 << 16)
            return None if kind == PACKET_OUTGOING else data

        return _collect(self.ear.fileno(), read, count, f"pod of host {self.number}")

    def sleeve_send(self, frame: bytes) -> None:
        assert self._sleeve is not None
        os.write(self._sleeve, bytes(VNET_SIZE) + frame)

    def sleeve_heard(self, count: int) -> list[bytes]:
        fd = self._sleeve
        assert fd is not None
        where = f"sleeve of host {self.number}"
        return _collect(fd, lambda: os.read(fd, 1 << 17)[VNET_SIZE:], count, where)

    def upcalls(self, count: int) -> list[Upcall]:
        found: list[Upcall] = []

        def enough() -> bool:
            found.extend(self.kernel.receive())
            return len(found) >= count

        eventually(enough)
        return found

    def forge(
        self,
        to: rules.Host,
        source: int,
        target: int,
        frame: bytes,
        hops: int = 64,
        own: bool = True,
    ) -> None:
        assert isinstance(to, KernelHost)
        sender = self.outer[to.number]
        if not own:
            last = "66" if self.number < to.number else "67"
            sender = sender[: sender.rindex("." if "." in sender else ":") + 1] + last
        family = socket.AF_INET6 if ":" in sender else socket.AF_INET
        key = (sender, hops)
        if key not in self._forgers:
            sock = inside(self.namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))
            sock.bind((sender, 0))
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
            self._forgers[key] = sock
        header = VXLAN.pack(HAS_VNI, (source | target << 12) << 8)
        self._forgers[key].sendto(header + frame, (to.outer[self.number], PORT))


def _collect(fd: int, read: Callable[[], bytes | None], count: int, where: str) -> list[bytes]:
    """As many frames as asked for, within the deadline, and all others that are there then."""
    found: list[bytes] = []
    until = time.monotonic() + DEADLINE
    while True:
        left = max(0.0, until - time.monotonic()) if len(found) < count else 0
        if not select.select([fd], [], [], left)[0]:
            assert len(found) >= count, f"{where} heard {len(found)} of {count}: {found}"
            return found
        data = read()
        if data is not None and data[12:14] in OURS:
            found.append(data)


class KernelChain(KernelRow):
    def __init__(self, tag: str, version: int = 4) -> None:
        self._hosts: list[rules.Host] = []
        made: list[KernelHost] = []
        try:
            made.extend(KernelHost(tag, n) for n in range(1, rules.COUNT + 1))
            super().__init__(made, version)
        except BaseException:
            for host in made:
                host.delete()
            raise
        self._made, self._hosts = made, list(made)

    @property
    def hosts(self) -> Sequence[rules.Host]:
        return self._hosts

    def open(self) -> None:
        for host in self._made:
            host.open()
            host.open_sleeve()

    def remove(self) -> None:
        for host in self._made:
            host.remove()

    def close(self) -> None:
        for host in self._made:
            host.ear.close()
            host.delete()
