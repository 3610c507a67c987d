"""Hosts with the kernel's fast path and one pod each, in a row, with no daemon and no worker.

Tables are told by hand. The bench, the soak and the tests build theirs of these::

    pod1   pod2   pod3
      |      |      |
      1 ---- 2 ---- 3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from bench.nodes import inside, ip, run_in
from mesh.drivers.fastdp.datapath import FastDatapath
from mesh.link.datapath import Config, Tables, Tree, correct
from mesh.names import ShortID

PORT_MTU = 65_000
"""Of bridge and VXLAN device, so that what is too big reaches the device, which answers it."""


def mac(number: int) -> bytes:
    """Of a host's pod."""
    return bytes((2, 0, 0, 0, 0, number))


def chain_tables(us: int, count: int, address: Callable[[int, int], str]) -> Tables:
    """One host's tables: away from every origin, towards every destination. ``address(a, b)`` is
    b's outer address as its neighbour a sees it."""
    tables = Tables()
    for other in range(1, count + 1):
        step = 1 if other > us else -1
        onward = us - step
        if other == us:
            sides = tuple(ShortID(n) for n in (us - 1, us + 1) if 1 <= n <= count)
            tables.trees[ShortID(us)] = Tree(None, sides)
            continue
        if abs(other - us) == 1:
            tables.neighbours[ShortID(other)] = address(us, other)
            tables.own[ShortID(other)] = address(other, us)
        tables.routes[ShortID(other)] = ShortID(us + step)
        tables.sources.add((address(us, us + step), ShortID(other)))
        children = (ShortID(onward),) if 1 <= onward <= count else ()
        tables.trees[ShortID(other)] = Tree(ShortID(us + step), children)
    return tables


class KernelNode:
    def __init__(self, tag: str, number: int, pod_mtu: int = 1450) -> None:
        self.number = number
        self.namespace, self.pod = f"{tag}h{number}", f"{tag}p{number}"
        self.address, self.address6 = f"10.98.0.{number}", f"fd98::{number}"
        self.outer: dict[int, str] = {}
        """Our own address on the cable to each neighbour."""
        self._datapath: FastDatapath | None = None
        for name in (self.namespace, self.pod):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        here = ("-n", self.namespace, "link")
        self.add_bridge()
        ip(*here, "add", "pod", "type", "veth", "peer", "name", "eth0", "netns", self.pod)
        ip(*here, "set", "pod", "addrgenmode", "none")
        ip(*here, "set", "pod", "mtu", str(PORT_MTU), "master", "weave", "up")
        eth0 = ("-n", self.pod, "link", "set", "eth0")
        ip(*eth0, "address", mac(number).hex(":"), "mtu", str(pod_mtu), "addrgenmode", "none")
        ip(*eth0, "up")

    def add_bridge(self) -> None:
        here = ("-n", self.namespace, "link")
        ip(*here, "add", "weave", "type", "bridge", "mcast_snooping", "0")
        ip(*here, "set", "weave", "addrgenmode", "none", "mtu", str(PORT_MTU))
        ip(*here, "set", "weave", "up")

    def add_pod_addresses(self) -> None:
        ip("-n", self.pod, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.pod, "addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad")

    @property
    def kernel(self) -> FastDatapath:
        assert self._datapath is not None
        return self._datapath

    @property
    def has_datapath(self) -> bool:
        return self._datapath is not None

    def open(self) -> None:
        self._datapath = inside(self.namespace, FastDatapath)

    def let_go(self) -> None:
        """To the kernel a daemon's death is that its files are closed."""
        self.kernel.close()
        self._datapath = None

    def remove(self) -> None:
        if self._datapath is not None:
            inside(self.namespace, self._datapath.remove)
            self._datapath = None

    def delete(self) -> None:
        for name in (self.namespace, self.pod):
            ip("netns", "del", name, check=False)


class KernelRow:
    """``mtus``: of the cables, in order. ``node`` makes a host of its number."""

    def __init__(
        self,
        nodes: Sequence[KernelNode],
        version: int = 4,
        mtus: Sequence[int] = (),
    ) -> None:
        self.nodes = nodes
        for at, (a, b) in enumerate(pairwise(nodes)):
            self._connect(a, b, version, mtus[at] if mtus else 1500)

    def _connect(self, a: KernelNode, b: KernelNode, version: int, mtu: int) -> None:
        one, two = f"u{b.number}", f"u{a.number}"
        pair = ("link", "add", one, "type", "veth", "peer", "name", two, "netns", b.namespace)
        ip("-n", a.namespace, *pair)
        for host, other, device in ((a, b, one), (b, a, two)):
            net = f"10.99.{a.number}." if version == 4 else f"fd99:{a.number}::"
            for last in (host.number, 66 if host is a else 67):
                # The second one is for who forges: a neighbour's host, and not its address.
                where = f"{net}{last}/{24 if version == 4 else 64}"
                nodad = () if version == 4 else ("nodad",)
                ip("-n", host.namespace, "addr", "add", where, "dev", device, *nodad)
            ip("-n", host.namespace, "link", "set", device, "mtu", str(mtu), "up")
            host.outer[other.number] = f"{net}{host.number}"

    def address(self, seen_by: int, number: int) -> str:
        return self.nodes[number - 1].outer[seen_by]

    def tables(self, number: int) -> Tables:
        return chain_tables(number, len(self.nodes), self.address)

    def tell(self, node: KernelNode) -> None:
        """What its daemon would: configuration and tables, then its programs put into force."""
        node.kernel.configure(Config(ShortID(node.number), PORT_MTU))
        correct(node.kernel, self.tables(node.number))
        node.kernel.start()

    def start(self) -> None:
        for node in self.nodes:
            node.open()
            self.tell(node)

    def close(self) -> None:
        for node in self.nodes:
            node.remove()
            node.delete()


def row(
    tag: str, count: int, version: int = 4, mtus: Sequence[int] = (), pod_mtu: int = 1450
) -> KernelRow:
    """Hosts whose pods have addresses, ready for traffic."""
    nodes: list[KernelNode] = []
    try:
        nodes.extend(KernelNode(tag, number, pod_mtu) for number in range(1, count + 1))
        world = KernelRow(nodes, version, mtus)
        for node in nodes:
            node.add_pod_addresses()
            run_in(node.pod, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=0")
        world.start()
    except BaseException:
        for node in nodes:
            node.remove()
            node.delete()
        raise
    return world
