"""The in-memory Datapath: the same tables, the same frame's way, over an underlay of addresses.

It does to frames what ``mesh/link/bpf`` does, slowly and obviously. Pods are a list of what the
bridge was given.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from mesh.link.checksum import checksum
from mesh.link.datapath import (
    CONTROL_TYPE,
    HOPS,
    MAX_CHILDREN,
    SLEEVE,
    Absence,
    Answer,
    Config,
    Counters,
    DatapathError,
    PeerCounters,
    Reason,
    Tables,
    Takeover,
    Tree,
    Upcall,
)
from mesh.link.drops import Drop
from mesh.link.icmp import too_big
from mesh.link.snooping import reported
from mesh.names import ShortID

MAX_UPCALLS = 1000
CONTROL_HEADER = bytes(12) + CONTROL_TYPE.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Outer:
    """A VXLAN packet between two addresses."""

    sender: str
    receiver: str
    source: ShortID
    target: ShortID
    hops: int
    frame: bytes


@dataclass
class Underlay:
    """Delivers at once, in order; ``sent`` is what was on the wire."""

    hosts: dict[str, DatapathTwin] = field(default_factory=dict)
    sent: list[Outer] = field(default_factory=list)
    queue: deque[Outer] = field(default_factory=deque)
    is_busy: bool = False

    def send(self, packet: Outer) -> None:
        self.queue.append(packet)
        if self.is_busy:
            return
        self.is_busy = True
        while self.queue:
            packet = self.queue.popleft()
            self.sent.append(packet)
            if packet.receiver in self.hosts:
                self.hosts[packet.receiver].from_underlay(packet)
        self.is_busy = False


class Kernel:
    """What outlives a daemon: tables, what was learned, counters."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.learned: dict[bytes, ShortID] = {}
        self.peers: dict[ShortID, Counter[str]] = {}
        self.drops: Counter[Drop] = Counter()
        self.answered = self.upcalls = self.to_sleeve = 0
        self.config: Config | None = None
        self.has_sleeve = False
        self.is_started = False
        self.upcall_queue: deque[Upcall] = deque()


class DatapathTwin:
    """``addresses`` are the host's own on the underlay, the first being what it sends from.

    ``absent`` makes every call fail with that word.
    """

    def __init__(self, underlay: Underlay, *addresses: str, kernel: Kernel | None = None) -> None:
        self._underlay, self.addresses = underlay, addresses
        self.takeover = Takeover.TAKEN if kernel is not None else Takeover.FRESH
        self.kernel = kernel if kernel is not None else Kernel()
        self.absent: Absence | None = None
        self.bridge: list[bytes] = []
        """Frames that our pods were given."""
        self.sleeve: list[bytes] = []
        """Frames that the sleeve's device was given."""
        for address in addresses:
            underlay.hosts[address] = self

    # --- life

    def start(self) -> None:
        self._check_presence()
        self.kernel.is_started = True

    def close(self) -> None:
        self.kernel.has_sleeve = False
        self.kernel.upcall_queue.clear()

    def remove(self) -> None:
        for address in self.addresses:
            self._underlay.hosts.pop(address, None)
        self.kernel = Kernel()

    def check(self) -> list[str]:
        self._check_presence()
        return []

    def configure(self, config: Config) -> None:
        self._check_presence()
        self.kernel.config = config

    def set_sleeve(self, device: str | None) -> None:
        self._check_presence()
        self.kernel.has_sleeve = device is not None

    # --- tables

    def set_neighbour(self, short_id: ShortID, host: str, own: str | None = None) -> None:
        self._check_presence()
        self.kernel.tables.neighbours[short_id] = host
        self.kernel.tables.own.pop(short_id, None)
        if own is not None:
            self.kernel.tables.own[short_id] = own

    def drop_neighbour(self, short_id: ShortID) -> None:
        self._check_presence()
        self.kernel.tables.neighbours.pop(short_id, None)
        self.kernel.tables.own.pop(short_id, None)

    def set_routes(
        self,
        routes: Mapping[ShortID, ShortID],
        mtus: Mapping[ShortID, int] | None = None,
        onward: Mapping[ShortID, ShortID] | None = None,
    ) -> None:
        self._check_presence()
        tables = self.kernel.tables
        for to in routes:
            self.drop_route(to)
        tables.routes.update(routes)
        tables.mtus.update({to: mtu for to, mtu in (mtus or {}).items() if to in routes})
        tables.onward.update({to: via for to, via in (onward or {}).items() if to in routes})

    def drop_route(self, short_id: ShortID) -> None:
        self._check_presence()
        self.kernel.tables.routes.pop(short_id, None)
        self.kernel.tables.mtus.pop(short_id, None)
        self.kernel.tables.onward.pop(short_id, None)

    def set_tree(self, origin: ShortID, tree: Tree) -> None:
        self._check_presence()
        if len(tree.children) > MAX_CHILDREN:
            raise DatapathError(Absence.TABLE_FULL, f"more than {MAX_CHILDREN} children")
        self.kernel.tables.trees[origin] = tree

    def drop_tree(self, origin: ShortID) -> None:
        self._check_presence()
        self.kernel.tables.trees.pop(origin, None)

    def set_group_tree(self, origin: ShortID, group: bytes, tree: Tree) -> None:
        self._check_presence()
        if len(tree.children) > MAX_CHILDREN:
            raise DatapathError(Absence.TABLE_FULL, f"more than {MAX_CHILDREN} children")
        self.kernel.tables.groups[origin, group] = tree

    def drop_group_tree(self, origin: ShortID, group: bytes) -> None:
        self._check_presence()
        self.kernel.tables.groups.pop((origin, group), None)

    def allow(self, host: str, source: ShortID) -> None:
        self._check_presence()
        self.kernel.tables.sources.add((host, source))

    def disallow(self, host: str, source: ShortID) -> None:
        self._check_presence()
        self.kernel.tables.sources.discard((host, source))

    def attach(self, mac: bytes, place: ShortID) -> None:
        self._check_presence()
        self.kernel.tables.attached[mac] = place

    def detach(self, mac: bytes) -> None:
        self._check_presence()
        self.kernel.tables.attached.pop(mac, None)

    def set_answer(self, address: str, answer: Answer) -> None:
        self._check_presence()
        self.kernel.tables.answers[address] = answer

    def drop_answer(self, address: str) -> None:
        self._check_presence()
        self.kernel.tables.answers.pop(address, None)

    def tables(self) -> Tables:
        self._check_presence()
        t = self.kernel.tables
        return Tables(
            dict(t.neighbours),
            dict(t.own),
            dict(t.routes),
            dict(t.mtus),
            dict(t.onward),
            dict(t.trees),
            dict(t.groups),
            set(t.sources),
            dict(t.attached),
            dict(t.answers),
        )

    def learned(self) -> dict[bytes, ShortID]:
        self._check_presence()
        return dict(self.kernel.learned)

    def forget(self, place: ShortID) -> None:
        self._check_presence()
        for mac in [m for m, p in self.kernel.learned.items() if p == place]:
            del self.kernel.learned[mac]

    def counters(self) -> Counters:
        self._check_presence()
        k = self.kernel
        peers = {short_id: PeerCounters(**c) for short_id, c in k.peers.items()}
        return Counters(peers, dict(k.drops), k.answered, k.upcalls, k.to_sleeve)

    # --- frames from and to user space

    def fileno(self) -> int:
        return -1

    def receive(self, limit: int = 64) -> list[Upcall]:
        queue = self.kernel.upcall_queue
        return [queue.popleft() for _ in range(min(limit, len(queue)))]

    def send_control(self, neighbour: ShortID, payload: bytes) -> None:
        self._check_presence()
        if self.kernel.config is None:
            return self._drop(Drop.NOT_CONFIGURED)
        us = self.kernel.config.short_id
        return self._send(neighbour, us, neighbour, HOPS, CONTROL_HEADER + payload)

    def deliver(self, source: ShortID, frame: bytes) -> None:
        self._check_presence()
        if self._learn(frame[6:12], source):
            self.bridge.append(frame)

    def send_along_tree(self, origin: ShortID, frame: bytes) -> None:
        self._check_presence()
        tree = self.kernel.tables.trees.get(origin)
        if tree is None:
            return self._drop(Drop.NO_ROUTE)
        return self._copy(tree, origin, HOPS, frame)

    # --- the frame's way

    def from_pod(self, frame: bytes) -> None:
        """What the bridge hands to the mesh's port."""
        k = self.kernel
        if k.config is None:
            return self._drop(Drop.NOT_CONFIGURED)
        us, t = k.config.short_id, k.tables
        target, source = frame[:6], frame[6:12]
        if not self._learn(source, us):
            return None
        if answer := self._answer(frame, us):
            return self.bridge.append(answer) if len(answer) > 1 else None
        if not target[0] & 1:
            place = t.attached.get(target, k.learned.get(target))
            if place == us:
                return self._drop(Drop.LOCAL)
            if place == SLEEVE:
                return self._to_sleeve(frame)
            if place is not None:
                return self._to_peer(place, us, HOPS, frame)
            if k.config.upcall_unknown:
                return self._upcall(Upcall(Reason.UNKNOWN, us, SLEEVE, frame))
        if any(reported(frame)):
            self._upcall(Upcall(Reason.REPORT, us, us, frame))
        tree = t.groups.get((us, target), t.trees.get(us))
        if tree is None:
            return self._drop(Drop.NO_ROUTE)
        self._copy(tree, us, HOPS, frame)
        return self._to_sleeve(frame) if tree.to_sleeve else None

    def from_sleeve(self, frame: bytes) -> None:
        """What the sleeve's worker writes to its device."""
        if self._learn(frame[6:12], SLEEVE):
            self.bridge.append(frame)

    def from_underlay(self, p: Outer) -> None:
        k = self.kernel
        if k.config is None:
            return self._drop(Drop.NOT_CONFIGURED)
        us, t = k.config.short_id, k.tables
        via = t.routes.get(p.target) or t.onward.get(p.target)
        if p.target != us and via and t.neighbours.get(via) == p.sender:
            return self._drop(Drop.LOOPED)
        if (p.sender, p.source) not in t.sources:
            return self._drop(Drop.BAD_SOURCE)
        if p.source == us:
            return self._drop(Drop.LOOPED)
        if p.target != us:
            return self._relay(p)
        if not any(p.frame[:12]):
            return self._upcall(Upcall(Reason.CONTROL, p.source, us, p.frame[14:]))
        target = p.frame[:6]
        tree = t.trees.get(p.source, Tree(None))
        parent = None if tree.parent is None else t.neighbours.get(tree.parent, "gone")
        is_on_tree = parent in (None, p.sender)
        if target[0] & 1 and not is_on_tree:
            return self._drop(Drop.OFF_TREE)
        if not self._learn(p.frame[6:12], p.source):
            return None
        self._count(p.source, "rx", p.frame)
        tree = t.groups.get((p.source, target), tree)
        is_ours = t.attached.get(target, k.learned.get(target)) == us
        if (tree.children or tree.to_sleeve) and is_on_tree and not is_ours:
            if p.hops > 1:
                self._copy(tree, p.source, p.hops - 1, p.frame)
                if tree.to_sleeve:
                    self._upcall(Upcall(Reason.BROADCAST, p.source, us, p.frame))
            else:
                self._drop(Drop.HOP_LIMIT)
        return self.bridge.append(p.frame) if tree.here else None

    def _relay(self, p: Outer) -> None:
        via = self.kernel.tables.routes.get(p.target)
        via = via or self.kernel.tables.onward.get(p.target, via)
        if via is None:
            return self._drop(Drop.NO_ROUTE)
        if via == SLEEVE:
            return self._upcall(Upcall(Reason.TRANSIT, p.source, p.target, p.frame))
        if p.hops <= 1:
            return self._drop(Drop.HOP_LIMIT)
        return self._send(via, p.source, p.target, p.hops - 1, p.frame)

    def _to_peer(self, place: ShortID, us: ShortID, hops: int, frame: bytes) -> None:
        via = self.kernel.tables.routes.get(place)
        if via is None:
            return self._drop(Drop.NO_ROUTE)
        if via == SLEEVE:
            return self._to_sleeve(frame)
        mtu = self.kernel.tables.mtus.get(place, len(frame))
        if frame[12:14] == b"\x86\xdd":
            mtu = max(mtu, 1280)
        if len(frame) > mtu + 14:
            flagged = frame[:20] + bytes((frame[20] | 0x40,)) + frame[21:]
            answer = too_big(flagged if may_be_cut(frame) else frame, mtu)
            self.bridge += [] if answer is None else [answer]
            if not may_be_cut(frame):
                return self._drop(Drop.TOO_BIG)
        return self._send(via, us, place, hops, frame)

    def _copy(self, tree: Tree, origin: ShortID, hops: int, frame: bytes) -> None:
        for child in tree.children:
            self._send(child, origin, child, hops, frame)

    def _send(self, via: ShortID, source: ShortID, to: ShortID, hops: int, frame: bytes) -> None:
        host = self.kernel.tables.neighbours.get(via)
        if host is None:
            return self._drop(Drop.NO_ROUTE)
        assert self.kernel.config is not None
        if any(frame[:12]):
            self._count(to, "tx" if source == self.kernel.config.short_id else "relayed", frame)
        routed = next(a for a in self.addresses if (":" in a) == (":" in host))
        ours = self.kernel.tables.own.get(via, routed)
        return self._underlay.send(Outer(ours, host, source, to, hops, frame))

    def _to_sleeve(self, frame: bytes) -> None:
        if not self.kernel.has_sleeve:
            return self._drop(Drop.NO_SLEEVE)
        self.kernel.to_sleeve += 1
        return self.sleeve.append(frame)

    def _upcall(self, upcall: Upcall) -> None:
        if len(self.kernel.upcall_queue) < MAX_UPCALLS:
            self.kernel.upcalls += 1
            self.kernel.upcall_queue.append(upcall)

    def _learn(self, mac: bytes, place: ShortID) -> bool:
        """False: not to be believed, drop the frame."""
        if mac[0] & 1 or not any(mac):
            self._drop(Drop.BAD_SOURCE)
            return False
        attached = self.kernel.tables.attached.get(mac)
        if attached is not None:
            us = None if self.kernel.config is None else self.kernel.config.short_id
            if attached == place or (place == SLEEVE and attached != us):
                return True
            self._drop(Drop.MAC_OF_ANOTHER)
            return False
        self.kernel.learned[mac] = place
        return True

    def _answer(self, frame: bytes, us: ShortID) -> bytes:
        """The answer to an ARP request or a solicitation; one octet: it is for a pod here, say
        nothing; none: it goes on."""
        return self._answer_nd(frame, us) or self._answer_arp(frame, us)

    def _answer_nd(self, frame: bytes, us: ShortID) -> bytes:
        is_solicitation = frame[12:14] == b"\x86\xdd" and frame[20:22] == b"\x3a\xff"
        if not is_solicitation or len(frame) != 86 or frame[54:56] != b"\x87\0":
            return b""
        sender, asked = frame[22:38], frame[62:78]
        answer = self.kernel.tables.answers.get(str(IPv6Address(asked)))
        if answer is None or frame[78:80] != b"\1\1" or not any(sender):
            return b""
        self.kernel.answered += 1
        if answer.place == us:
            return b"\0"
        body = b"\x60\0\0\0" + asked + b"\2\1" + answer.mac
        pseudo = asked + sender + bytes((0, 0, 0, 32, 0, 0, 0, 58))
        value = checksum(pseudo + b"\x88\0\0\0" + body)
        message = b"\x88\0" + value.to_bytes(2, "big") + body
        return frame[6:12] + answer.mac + frame[12:22] + asked + sender + message

    def _answer_arp(self, frame: bytes, us: ShortID) -> bytes:
        is_request = frame[12:22] == bytes.fromhex("0806 0001 0800 06 04 0001")
        if not is_request or len(frame) < 42:
            return b""
        asked, asker = frame[38:42], frame[28:32]
        answer = self.kernel.tables.answers.get(".".join(map(str, asked)))
        if answer is None or asked == asker or not any(asker):
            return b""
        self.kernel.answered += 1
        if answer.place == us:
            return b"\0"
        head = frame[6:12] + answer.mac + frame[12:20] + b"\0\2"
        return head + answer.mac + asked + frame[22:28] + asker + frame[42:]

    def _drop(self, reason: Drop) -> None:
        self.kernel.drops[reason] += 1

    def _count(self, peer: ShortID, what: str, frame: bytes) -> None:
        counts = self.kernel.peers.setdefault(peer, Counter())
        counts[f"{what}_frames"] += 1
        counts[f"{what}_octets"] += len(frame)

    def _check_presence(self) -> None:
        if self.absent is not None:
            raise DatapathError(self.absent, f"no fast path: {self.absent}")


def may_be_cut(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\0" and not frame[20] & 0x40


def restarted(twin: DatapathTwin, underlay: Underlay) -> DatapathTwin:
    """The next daemon's, on what a killed one left."""
    twin.close()
    return DatapathTwin(underlay, *twin.addresses, kernel=twin.kernel)
