"""The door to the kernel's fast path: what is told to it, what it tells, why it may be absent.

A frame of a pod leaves bridge ``weave`` by one port, the VXLAN device. There the kernel looks up
the frame's MAC address -> the short ID of the peer it is behind -> that peer's route, which is a
neighbour or the sleeve -> the neighbour's outer address. So a change of topology is one write for
each destination, whatever number of addresses is behind it. Every outer packet says by whom the
frame was sent and for whom it is: VNI = source | target << 12. Its time to live is the hop limit.

Who fills the tables decides; the kernel obeys, and goes on obeying while nobody is there. An
earlier daemon's tables are taken over as they are: ``tables()`` says what they hold, and
``correct`` writes what differs, so that nothing is flushed and no frame is lost.

Implementations: ``mesh.drivers.fastdp`` (the kernel, docs/fastdp.md) and
``tests/unit/datapath_twin.py`` (memory), both held to ``tests/datapath_rules.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

from mesh.errors import WeaverError
from mesh.link.drops import Drop
from mesh.names import ShortID

LAYOUT = 2
"""Version of the tables' layout. Tables of another layout are not taken over: new ones are filled,
then put into force together with their programs."""

SLEEVE = ShortID(0)
"""As a route: this peer is reached by the sleeve, hand its frames to the sleeve's device. As a
learned place: the address is behind a peer that the sleeve's worker knows."""

MAX_MACS = 65_536
MAX_CHILDREN = 256
MAX_GROUP_TREES = 16_384
MAX_SOURCES = 65_536
HOPS = 64
"""Outer time to live of what we send ourselves; every relay sends on with one less."""

CONTROL_TYPE = 0x88B5
"""EtherType of control frames. Both of their MAC addresses are zero, which no pod's can be."""


class Absence(StrEnum):
    """Why there is no fast path here: the stable words of status, logs and tests."""

    NO_OBJECT = "programs-not-built"
    NO_KERNEL = "kernel-too-old"
    NO_PRIVILEGE = "not-privileged"
    NO_VXLAN = "no-vxlan"
    NO_CLSACT = "no-clsact"
    REFUSED = "programs-refused"
    NO_BRIDGE = "no-bridge"
    FOREIGN_DEVICE = "foreign-device"
    PORT_TAKEN = "port-taken"
    BUSY = "another-daemon"
    TABLE_FULL = "table-full"
    GONE = "device-gone"


class DatapathError(WeaverError):
    """The fast path cannot be had, or cannot do this. One line for the operator, and its word."""

    def __init__(self, reason: Absence, message: str) -> None:
        super().__init__(message)
        self.reason = reason.value  # type: ignore[misc]  # an instance names its own word
        self.absence = reason


@dataclass(frozen=True, slots=True)
class Config:
    """What holds for every frame."""

    short_id: ShortID
    mtu: int
    """Of the VXLAN device as a port of the bridge: at least that of the pods, else the bridge drops
    without a word what the kernel would answer with ICMP."""
    upcall_unknown: bool = False
    """Unicast to an address nobody is known behind: to user space, instead of along our tree."""


@dataclass(frozen=True, slots=True)
class Tree:
    """How broadcasts and multicasts of one origin pass through us."""

    parent: ShortID | None
    """The neighbour they must come from; None: any that is allowed, or we are the origin."""
    children: tuple[ShortID, ...] = ()
    """Neighbours that get a copy in the kernel."""
    to_sleeve: bool = False
    """Others get it by sleeve: of our own pods' broadcasts the sleeve's device gets a copy, another
    origin's come up as ``Reason.BROADCAST``."""
    here: bool = True
    """Whether our own pods get it: of a group that none of them listens to we only pass it on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Who has an IP address of the overlay: ARP and neighbour solicitations are answered here."""

    mac: bytes
    place: ShortID


@dataclass(slots=True)
class Tables:
    """All that is told, and nothing that the kernel learned by itself."""

    neighbours: dict[ShortID, str] = field(default_factory=dict)
    """Outer address of each neighbour, IPv4 or IPv6 as text."""
    own: dict[ShortID, str] = field(default_factory=dict)
    """Which of our addresses a neighbour is sent to from, where it is not left to routing. Kernels
    before 6.0 leave it to routing, and read back nothing here."""
    routes: dict[ShortID, ShortID] = field(default_factory=dict)
    """Destination -> the neighbour frames for it go to (itself, where it is one), or ``SLEEVE``."""
    mtus: dict[ShortID, int] = field(default_factory=dict)
    """Of destinations by the kernel: octets of the largest packet that one takes. What is larger is
    answered to the pod that sent it; where there is no entry, any size may go."""
    onward: dict[ShortID, ShortID] = field(default_factory=dict)
    """Destination -> the neighbour that frames of others go on to, where ours do not go by the
    kernel (any more): who sent them may not know yet that they should not."""
    trees: dict[ShortID, Tree] = field(default_factory=dict)
    groups: dict[tuple[ShortID, bytes], Tree] = field(default_factory=dict)
    """(origin, a group's MAC) -> the tree of this group alone, with the parent of the origin's.
    Where there is none the origin's serves."""
    sources: set[tuple[str, ShortID]] = field(default_factory=set)
    """(outer address, source): from this address frames of this source may come."""
    attached: dict[bytes, ShortID] = field(default_factory=dict)
    """MAC -> the peer whose pod has it. Known for certain: no frame can move it elsewhere."""
    answers: dict[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeerCounters:
    """Packets that super-frames stand for are counted one by one."""

    tx_frames: int = 0
    tx_octets: int = 0
    """Of our pods, to this peer; of broadcasts each child's copy."""
    rx_frames: int = 0
    rx_octets: int = 0
    """Of this source, for us."""
    relayed_frames: int = 0
    relayed_octets: int = 0
    """Of others, sent on towards this destination or child."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the tables were made: a daemon that takes them over goes on counting."""

    peers: Mapping[ShortID, PeerCounters]
    """Only peers with which something was exchanged."""
    drops: Mapping[Drop, int]
    answered: int = 0
    """ARP requests and solicitations that were answered here."""
    upcalls: int = 0
    to_sleeve: int = 0


class Reason(IntEnum):
    """Why a frame came up to user space."""

    CONTROL = 1
    """A control frame of ``source`` for us: ``frame`` is its payload."""
    UNKNOWN = 2
    """Of our pods, to an address nobody is known behind (``Config.upcall_unknown``)."""
    BROADCAST = 3
    """Of ``source``, come by the kernel; its tree goes on by sleeve from here."""
    TRANSIT = 4
    """Of ``source`` for ``target``, which we reach by sleeve."""
    REPORT = 5
    """Of our pods, about the groups they listen to (IGMP, MLD): a copy."""


@dataclass(frozen=True, slots=True)
class Upcall:
    reason: Reason
    source: ShortID
    target: ShortID
    frame: bytes


class Takeover(StrEnum):
    """What was found when the fast path was opened."""

    FRESH = "fresh"
    TAKEN = "taken-over"
    """Tables of an earlier daemon, with programs that went on working."""
    OTHER_LAYOUT = "other-layout"
    """An earlier daemon's programs still work, on tables we cannot read. ``start`` replaces both:
    fill ours first."""


class Datapath(Protocol):
    """One peer's fast path. Calls raise DatapathError and nothing else for what the world does.

    Order: made (which finds or makes devices and tables), told (``correct``), ``start``. Told
    again by difference as things change. ``check`` every few seconds. At the end ``close``, which
    leaves the kernel forwarding for the next daemon, or ``remove``, which leaves nothing.
    """

    takeover: Takeover

    def start(self) -> None:
        """Put our programs into force, in place of an earlier daemon's without a frame lost."""

    def close(self) -> None:
        """Let go. The kernel goes on forwarding by what it was told."""

    def remove(self) -> None:
        """Delete devices, programs and tables. Idempotent."""

    def check(self) -> list[str]:
        """Look after devices and programs; what was repaired, in words. DatapathError: what cannot
        be (``GONE``, ``FOREIGN_DEVICE``, ``NO_BRIDGE``); call again, it may be possible later."""

    def configure(self, config: Config) -> None: ...

    def set_sleeve(self, device: str | None) -> None:
        """Where frames for peers by sleeve go, and from where its frames reach the bridge. This
        device must not be a port of the bridge itself. None: there is no sleeve now."""

    # --- the tables; each call is one write, seen by the next frame as a whole

    def set_neighbour(self, short_id: ShortID, host: str, own: str | None = None) -> None:
        """``own``: the address to send from, which the neighbour allows; None: as routing has it.
        A host with several addresses on one network should say (its TCP connection knows)."""

    def drop_neighbour(self, short_id: ShortID) -> None: ...

    def set_routes(
        self,
        routes: Mapping[ShortID, ShortID],
        mtus: Mapping[ShortID, int] | None = None,
        onward: Mapping[ShortID, ShortID] | None = None,
    ) -> None:
        """These destinations, each with its MTU and its way for others' frames if it has them, at
        one go; others stay."""

    def drop_route(self, short_id: ShortID) -> None: ...
    def set_tree(self, origin: ShortID, tree: Tree) -> None: ...
    def drop_tree(self, origin: ShortID) -> None: ...
    def set_group_tree(self, origin: ShortID, group: bytes, tree: Tree) -> None: ...
    def drop_group_tree(self, origin: ShortID, group: bytes) -> None: ...
    def allow(self, host: str, source: ShortID) -> None: ...
    def disallow(self, host: str, source: ShortID) -> None: ...
    def attach(self, mac: bytes, place: ShortID) -> None: ...
    def detach(self, mac: bytes) -> None: ...
    def set_answer(self, address: str, answer: Answer) -> None: ...
    def drop_answer(self, address: str) -> None: ...

    def tables(self) -> Tables:
        """What the kernel was told, by us or by an earlier daemon, read back from it."""

    def learned(self) -> dict[bytes, ShortID]:
        """MAC -> place as the kernel learned by itself from frames, our own pods' included."""

    def forget(self, place: ShortID) -> None:
        """Drop what was learned behind this peer: it is gone, or another has its short ID."""

    def counters(self) -> Counters: ...

    # --- frames from and to user space

    def fileno(self) -> int:
        """Readable when there are upcalls."""

    def receive(self, limit: int = 64) -> list[Upcall]:
        """At most so many upcalls, without waiting. Frames that are malformed are left out."""

    def send_control(self, neighbour: ShortID, payload: bytes) -> None:
        """A control frame straight to a neighbour's address, never fragmented, whatever its route
        is. Loss is nobody's fault: it is how a path is found out not to carry this size."""

    def deliver(self, source: ShortID, frame: bytes) -> None:
        """An Ethernet frame into our bridge, learned as one of ``source``."""

    def send_along_tree(self, origin: ShortID, frame: bytes) -> None:
        """To the kernel's children in this origin's tree, and not to our own pods."""


def correct(datapath: Datapath, wanted: Tables, have: Tables | None = None) -> int:
    """Make the told tables what they should be by writing what differs; how much did.

    ``have``: what they are, where that is known; else they are read. New things are written before
    old ones go, and what refers to a neighbour after it.
    """
    if have is None:
        have = datapath.tables()
    writes = 0
    for short_id, host in wanted.neighbours.items():
        own = wanted.own.get(short_id)
        if (have.neighbours.get(short_id), have.own.get(short_id)) != (host, own):
            datapath.set_neighbour(short_id, host, own)
            writes += 1
    for host, source in wanted.sources - have.sources:
        datapath.allow(host, source)
        writes += 1
    for mac, place in wanted.attached.items():
        if have.attached.get(mac) != place:
            datapath.attach(mac, place)
            writes += 1
    for address, answer in wanted.answers.items():
        if have.answers.get(address) != answer:
            datapath.set_answer(address, answer)
            writes += 1
    routes = {
        to: via for to, via in wanted.routes.items() if _route(have, to) != _route(wanted, to)
    }
    if routes:
        datapath.set_routes(routes, wanted.mtus, wanted.onward)
        writes += len(routes)
    for origin, tree in wanted.trees.items():
        if have.trees.get(origin) != tree:
            datapath.set_tree(origin, tree)
            writes += 1
    for (origin, group), tree in wanted.groups.items():
        if have.groups.get((origin, group)) != tree:
            datapath.set_group_tree(origin, group, tree)
            writes += 1
    return writes + _drop_the_rest(datapath, have, wanted)


def _route(tables: Tables, to: ShortID) -> tuple[int | None, ...]:
    return tables.routes.get(to), tables.mtus.get(to), tables.onward.get(to)


def _drop_the_rest(datapath: Datapath, have: Tables, wanted: Tables) -> int:
    groups = have.groups.keys() - wanted.groups.keys()
    for origin, group in groups:
        datapath.drop_group_tree(origin, group)
    trees = have.trees.keys() - wanted.trees.keys()
    for origin in trees:
        datapath.drop_tree(origin)
    routes = have.routes.keys() - wanted.routes.keys()
    for short_id in routes:
        datapath.drop_route(short_id)
    answers = have.answers.keys() - wanted.answers.keys()
    for address in answers:
        datapath.drop_answer(address)
    macs = have.attached.keys() - wanted.attached.keys()
    for mac in macs:
        datapath.detach(mac)
    sources = have.sources - wanted.sources
    for host, source in sources:
        datapath.disallow(host, source)
    neighbours = have.neighbours.keys() - wanted.neighbours.keys()
    for short_id in neighbours:
        datapath.drop_neighbour(short_id)
    gone = len(groups) + len(trees) + len(routes) + len(answers)
    return gone + len(macs) + len(sources) + len(neighbours)
