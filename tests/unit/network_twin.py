"""The in-memory NetworkPort, and allocator: what attaching needs of a kernel and of a mesh."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from ipam.address import Address, AddressRange
from ipam.effects import AllocationKey
from mesh.errors import OperatorError
from weaver.daemon.network import Wired, Wiring
from weaver.daemon.pools import Pool, Pools

RANGE = AddressRange.parse("10.32.0.0/24")


@dataclass
class NetworkTwin:
    """Namespaces hold interfaces; a pair's host end is on the bridge. ``before`` runs first in
    every method, and may raise."""

    namespaces: dict[str, set[str]] = field(default_factory=dict)
    pairs: dict[str, Wiring] = field(default_factory=dict)
    bridge: set[str] = field(default_factory=set)
    bridge_addresses: tuple[str, ...] = ()
    plain: tuple[str, ...] | None = None
    before: Callable[[str], None] = field(default=lambda _method: None)

    async def attach(self, wiring: Wiring) -> Wired:
        self.before("attach")
        inside = self._namespace(wiring.netns)
        self._delete(wiring.host)
        if wiring.netns and wiring.ifname in inside:  # what stays here has a name of its own
            raise OperatorError(f"{wiring.ifname} exists", "interface-exists")
        mac = wiring.mac or "02:00:00:00:00:01"
        inside.add(wiring.ifname)
        self.pairs[wiring.host] = wiring
        self.bridge.add(wiring.host)
        return Wired(mac, "02:00:00:00:00:02", wiring.routes)

    async def shape(self, wiring: Wiring) -> None:
        self.before("shape")
        self.pairs[wiring.host] = wiring

    async def resize(self, wiring: Wiring) -> None:
        self.before("resize")
        self._namespace(wiring.netns)
        self.pairs[wiring.host] = wiring

    async def check(self, wiring: Wiring) -> list[str]:
        self.before("check")
        if wiring.ifname not in self._namespace(wiring.netns):
            return [f"{wiring.ifname} is missing"]
        made = self.pairs.get(wiring.host)
        if made is None:
            return [f"host interface {wiring.host} is missing"]
        lost = set(wiring.addresses) - set(made.addresses)
        wrong = [f"address {address} of {wiring.ifname} is missing" for address in sorted(lost)]
        if wiring.host not in self.bridge:
            wrong.append(f"{wiring.host} is not on the bridge weave")
        return wrong

    def differ(self, one: str, other: str) -> bool:
        return one != other and {one, other} <= self.namespaces.keys()

    async def delete(self, hosts: Sequence[str]) -> None:
        self.before("delete")
        for host in hosts:
            self._delete(host)

    async def present(self, hosts: Collection[str]) -> frozenset[str]:
        self.before("present")
        return frozenset(host for host in hosts if host in self.pairs)

    async def adopt(self, hosts: Sequence[str], hairpins: Sequence[str] = ()) -> frozenset[str]:
        self.before("adopt")
        there = frozenset(host for host in hosts if host in self.pairs)
        self.bridge |= there
        return there

    async def expose(
        self, addresses: Sequence[str], ranges: Sequence[str], plain: Sequence[str] = ()
    ) -> None:
        self.before("expose")
        self.bridge_addresses, self.plain = tuple(addresses), tuple(plain)

    async def mend_rules(
        self, ranges: Sequence[str], plain: Sequence[str], *, exposed: bool
    ) -> str | None:
        wrong = None if self.plain == tuple(plain) else "the rules were gone"
        self.plain = tuple(plain)
        return wrong

    async def hide(self, addresses: Sequence[str]) -> None:
        self.before("hide")
        kept = (cidr for cidr in self.bridge_addresses if cidr not in addresses)
        self.bridge_addresses = tuple(kept)

    # ---- what the world does

    def kill(self, netns: str) -> None:
        """A namespace dies, its interfaces with it, and their host ends with them."""
        del self.namespaces[netns]
        for host in [h for h, wiring in self.pairs.items() if wiring.netns == netns]:
            self._delete(host)

    def _namespace(self, netns: str) -> set[str]:
        if netns not in self.namespaces:
            raise OperatorError(f"cannot open {netns}", "netns-missing")
        return self.namespaces[netns]

    def _delete(self, host: str) -> None:
        wiring = self.pairs.pop(host, None)
        self.bridge.discard(host)
        if wiring is not None and wiring.netns in self.namespaces:
            self.namespaces[wiring.netns].discard(wiring.ifname)


def pools(*twins: IpamTwin) -> Pools:
    return Pools([Pool(twin.range, twin) for twin in twins])


class IpamTwin:
    """Lowest free address first. ``before`` is awaited first in every request."""

    def __init__(self, range: AddressRange = RANGE) -> None:
        self.range = range
        self.held: dict[AllocationKey, Address] = {}
        self.before: Callable[[], object] = lambda: None

    async def allocate(self, key: AllocationKey) -> Address:
        await self._before()
        if key not in self.held:
            taken = set(self.held.values())
            at = self.range.start + 1
            while at in taken:
                at += 1
            self.held[key] = Address(at)
        return self.held[key]

    async def claim(self, key: AllocationKey, address: Address, *, force: bool = False) -> Address:
        await self._before()
        if any(a == address and k != key for k, a in self.held.items()):
            raise OperatorError("taken", "address-in-use")
        self.held[key] = address
        return address

    async def free(self, key: AllocationKey) -> Address | None:
        return self.held.pop(key, None)

    def holds(self, key: AllocationKey) -> bool:
        return key in self.held

    async def _before(self) -> None:
        waiting = self.before()
        if hasattr(waiting, "__await__"):
            await waiting
