"""What a lab consists of, worked out from a few numbers; nothing here touches the machine.

Every host has one underlay address, as a real one has, on a veth pair to each of its neighbours and
with a route to that neighbour's address alone. A host that is no neighbour is therefore not merely
far away, it is unreachable: nothing forwards, and no route leads there. That is what makes a lab
prove relaying instead of assuming it.

    weaver-h1                    weaver-h2                    weaver-h3
    172.31.0.1 ── to-h2 ═══ to-h1 ── 172.31.0.2 ── to-h3 ═══ to-h2 ── 172.31.0.3      (a chain)
       │ weave                      │ weave                       │ weave
    weaver-h1-p1                 weaver-h2-p1                 weaver-h3-p1
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mesh.errors import OperatorError

MAX_HOSTS = 500
"""Hosts of one lab. Each is two Python processes of tens of megabytes; more than this is a typo."""

MAX_PODS = 200
"""Pods of one host: what kubelet's default of 110 needs, with room."""

MESH_TARGETS = 3
"""Peers a host of a full mesh is told of; discovery finds the rest, and two of them may be down."""

UNDERLAY4 = ipaddress.IPv4Network("172.31.0.0/16")
UNDERLAY6 = ipaddress.IPv6Network("fd00:6c61:62::/64")

_NAME = re.compile(r"[a-z][a-z0-9]{0,10}\Z")
_HOST = re.compile(r"h([1-9][0-9]*)\Z")


class Shape(StrEnum):
    """Who is whose neighbour on the underlay."""

    MESH = "mesh"
    CHAIN = "chain"
    STAR = "star"
    RING = "ring"


@dataclass(frozen=True, slots=True)
class Pod:
    """A network namespace that gets its interface from the CNI executable."""

    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one daemon in it."""

    name: str
    namespace: str
    underlay: str
    underlay6: str
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """One veth pair between two neighbours; each end is named after where it leads."""

    a: Host
    b: Host

    @property
    def ends(self) -> tuple[tuple[Host, str, Host], tuple[Host, str, Host]]:
        """(this host, its device, the host at the other end), for both ends."""
        return (self.a, f"to-{self.b.name}", self.b), (self.b, f"to-{self.a.name}", self.a)

    def joins(self, first: str, second: str) -> bool:
        return {first, second} == {self.a.name, self.b.name}


@dataclass(frozen=True, slots=True)
class Order:
    """What the operator asked for: enough to plan the same lab again, so this is what is stored."""

    name: str = "weaver"
    hosts: int = 3
    shape: Shape = Shape.MESH
    pods: int = 1
    deny: tuple[tuple[str, str], ...] = ()
    mtu: int = 1500
    ipv6: bool = False
    """An underlay of IPv6 alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Hosts in order of their numbers and the wires between them."""

    order: Order
    hosts: tuple[Host, ...]
    wires: tuple[Wire, ...]

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise OperatorError(f"no host {name!r} in this lab; it has {_listing(self.hosts)}")

    def place(self, name: str) -> Host | Pod:
        """A host or a pod by its name."""
        for host in self.hosts:
            places: tuple[Host | Pod, ...] = (host, *host.pods)
            for place in places:
                if place.name == name:
                    return place
        raise OperatorError(
            f"no host or pod {name!r} in this lab; hosts are {_listing(self.hosts)}"
        )

    def wire(self, first: str, second: str) -> Wire:
        for name in (first, second):
            self.host(name)
        for wire in self.wires:
            if wire.joins(first, second):
                return wire
        raise OperatorError(f"{first} and {second} are not neighbours: there is nothing to cut")

    def neighbours(self, host: Host) -> tuple[Host, ...]:
        """In order of their numbers."""
        near = {far.name for wire in self.wires for here, _, far in wire.ends if here == host}
        return tuple(h for h in self.hosts if h.name in near)

    def targets(self, host: Host) -> tuple[str, ...]:
        """The addresses this host's daemon is started with.

        In a mesh the first few neighbours, because discovery is to find the others. In the other
        shapes all: who was away for long then dials back at once, instead of being waited for by
        neighbours whose back-off has grown.
        """
        near = self.neighbours(host)
        chosen = near[:MESH_TARGETS] if self.order.shape is Shape.MESH else near
        return tuple(h.underlay6 if self.order.ipv6 else h.underlay for h in chosen)

    @property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(pod for host in self.hosts for pod in host.pods)


def draw(order: Order) -> Plan:
    """Work the whole lab out; what cannot be built is refused with the words that fix it."""
    _check(order)
    hosts = tuple(_host(order, number) for number in range(1, order.hosts + 1))
    denied = {frozenset(pair) for pair in order.deny}
    pairs = [p for p in _pairs(order.shape, order.hosts) if frozenset(map(_name, p)) not in denied]
    wires = tuple(Wire(hosts[a - 1], hosts[b - 1]) for a, b in pairs)
    plan = Plan(order, hosts, wires)
    for cut in order.deny:
        for name in cut:
            plan.host(name)
    _check_whole(plan)
    return plan


def parse_deny(text: str) -> tuple[str, str]:
    """``h1:h5``: these two hosts are to be no neighbours."""
    first, _, second = text.partition(":")
    if not _HOST.match(first) or not _HOST.match(second) or first == second:
        raise OperatorError(f"{text!r} does not name two hosts; write it like h1:h5")
    return first, second


def owns_namespace(lab: str, namespace: str) -> bool:
    """Whether this lab gives such a name; exact, because a lab's own name holds no dash."""
    return re.fullmatch(rf"{re.escape(lab)}-h[1-9][0-9]*(-p[1-9][0-9]*)?", namespace) is not None


def check_name(name: str) -> str:
    if not _NAME.match(name):
        raise OperatorError(
            f"{name!r} cannot name a lab: one to eleven of a-z and 0-9, beginning with a letter"
        )
    return name


def _check(order: Order) -> None:
    check_name(order.name)
    if not 1 <= order.hosts <= MAX_HOSTS:
        raise OperatorError(f"{order.hosts} hosts: a lab has 1 to {MAX_HOSTS}")
    if not 0 <= order.pods <= MAX_PODS:
        raise OperatorError(f"{order.pods} pods a host: a lab has 0 to {MAX_PODS}")
    if not 1280 <= order.mtu <= 65535:
        raise OperatorError(
            f"an underlay MTU of {order.mtu}: IPv6 needs 1280, a veth carries 65535"
        )


def _check_whole(plan: Plan) -> None:
    """A lab in two parts would never become one mesh: refuse it before waiting a minute for it."""
    reached = {plan.hosts[0].name}
    edge = [plan.hosts[0]]
    while edge:
        for near in plan.neighbours(edge.pop()):
            if near.name not in reached:
                reached.add(near.name)
                edge.append(near)
    apart = [host for host in plan.hosts if host.name not in reached]
    if apart:
        raise OperatorError(
            f"this underlay falls apart: {_listing(apart)} would reach nobody of h1"
        )


def _pairs(shape: Shape, hosts: int) -> Iterable[tuple[int, int]]:
    numbers = range(1, hosts + 1)
    match shape:
        case Shape.MESH:
            return [(a, b) for a in numbers for b in numbers if a < b]
        case Shape.CHAIN:
            return [(a, a + 1) for a in numbers if a < hosts]
        case Shape.STAR:
            return [(1, b) for b in numbers if b > 1]
        case Shape.RING:
            closing = [(1, hosts)] if hosts > 2 else []
            return [(a, a + 1) for a in numbers if a < hosts] + closing


def _host(order: Order, number: int) -> Host:
    name = _name(number)
    namespace = f"{order.name}-{name}"
    pods = tuple(Pod(f"{name}-p{p}", f"{namespace}-p{p}") for p in range(1, order.pods + 1))
    return Host(name, namespace, str(UNDERLAY4[number]), str(UNDERLAY6[number]), pods)


def _name(number: int) -> str:
    return f"h{number}"


def _listing(hosts: Iterable[Host]) -> str:
    return ", ".join(host.name for host in hosts)
