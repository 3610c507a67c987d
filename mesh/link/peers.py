"""What the worker knows of other peers: keys by epoch, addresses, routes, trees.

Who drives it: the sleeve worker, by the daemon's messages (``mesh.wire.worker``).

Invariants: no key seals two records under one number, whatever is installed how often: every
sending epoch begins to count above all numbers this worker has used for retired ones, within a
lane that no other worker of this host has. Whatever names a short ID that was dropped is gone with
it, but for the trees, which name origins only. ``version`` changes with every change of a table,
so whoever remembers what follows from them knows when to forget it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mesh.crypto.aead import AEADS, Aead
from mesh.link.drops import Drop
from mesh.link.lossmeter import LossMeter
from mesh.link.macs import MacTable
from mesh.link.recordsize import RecordSize
from mesh.link.replay import ReplayWindow
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import LANE_SHIFT, PREFIX

MAX_EPOCHS = 8
"""Epochs held for one peer: the active one, the next, the last, and some that were given up."""


@dataclass(slots=True)
class RxEpoch:
    """``windows``: a replay window for each of the sender's lanes, which count by themselves."""

    aead: Aead
    tag: int
    windows: dict[int, ReplayWindow] = field(default_factory=dict)

    def window(self, lane: int) -> ReplayWindow:
        window = self.windows.get(lane)
        if window is None:
            window = self.windows[lane] = ReplayWindow()
        return window


@dataclass(slots=True)
class TxEpoch:
    """``seq`` is the number of the last record sealed under this key."""

    epoch: int
    key: bytes
    aead: Aead
    tag: int
    seq: int


@dataclass(slots=True)
class Peer:
    """``in_kernel``: its broadcasts are heard by the kernel, and unknown addresses behind it asked
    for there. ``meter`` is of what it sends us, ``size`` of what we send it; ``plain_seen`` are the
    numbers of records in clear that came, by lane."""

    short_id: ShortID
    name: PeerName
    mtu: int
    in_kernel: bool = field(default=False, kw_only=True)
    rx: dict[int, RxEpoch] = field(default_factory=dict)
    tx: dict[int, TxEpoch] = field(default_factory=dict)
    active: TxEpoch | None = None
    size: RecordSize = field(default_factory=RecordSize)
    plain_seq: int = 0
    tx_octets: int = 0
    rx_octets: int = 0
    tx_frames: int = 0
    rx_frames: int = 0
    tx_records: int = 0
    rx_records: int = 0
    tx_datagrams: int = 0
    tx_calls: int = 0
    meter: LossMeter = field(default_factory=LossMeter)
    plain_seen: dict[int, ReplayWindow] = field(default_factory=dict)

    def counters(self) -> w.PeerCounters:
        return w.PeerCounters(
            self.short_id, self.tx_octets, self.rx_octets, self.tx_frames, self.rx_frames,
            self.tx_records, self.rx_records, self.tx_datagrams, self.tx_calls,
            self.meter.all_lost, self.meter.all_missing,
            round(1e6 * self.size.loss), self.size.limit,
        )  # fmt: skip

    def plain_window(self, lane: int) -> ReplayWindow:
        return self.plain_seen.setdefault(lane, ReplayWindow())

    def windows(self) -> dict[tuple[int, int], ReplayWindow]:
        """The numbers that came, by epoch and lane."""
        sealed = {
            (epoch, lane): window
            for epoch, rx in self.rx.items()
            for lane, window in rx.windows.items()
        }
        return sealed or {(0, lane): window for lane, window in self.plain_seen.items()}


@dataclass(slots=True)
class Neighbour:
    endpoint: Endpoint
    segment: int


@dataclass(slots=True)
class Route:
    """``via`` is the neighbour to hand datagrams to, ``segment`` what the whole path carries."""

    via: ShortID
    segment: int


class Peers:
    """Tables and nothing else: no clock, no socket. ``lane``: which of its host's workers it is."""

    def __init__(self, lane: int = 0) -> None:
        self._first = lane << LANE_SHIFT
        self.version = 0
        self.us: ShortID | None = None
        self.mtu = 1400
        self.encrypted = True
        self.peers: dict[ShortID, Peer] = {}
        self.neighbours: dict[ShortID, Neighbour] = {}
        self.routes: dict[ShortID, Route] = {}
        self.trees: dict[ShortID, tuple[ShortID, ...]] = {}
        self.macs = MacTable()
        self.drops: Counter[str] = Counter()
        self.peer_drops: Counter[tuple[ShortID, str]] = Counter()
        """Those of them that were a known peer's."""
        self._used = self._first
        """The highest number a retired sending epoch came to."""

    def apply(self, message: w.ToWorker) -> w.FromWorker | None:
        """Do as the daemon says; the answer, where one is due."""
        self.version += 1
        match message:
            case w.Configure(short_id, _, mtu, encrypted):
                self.us, self.mtu, self.encrypted = short_id, mtu, encrypted
            case w.SetPeer():
                self._set_peer(message)
            case w.DropPeer(short_id):
                self._drop_peer(short_id)
            case w.SetNeighbour(short_id, endpoint, segment):
                self.neighbours[short_id] = Neighbour(endpoint, segment)
            case w.DropNeighbour(short_id):
                self.neighbours.pop(short_id, None)
            case w.SetRoute(short_id, next_hop, segment):
                self.routes[short_id] = Route(next_hop, segment)
            case w.DropRoute(short_id):
                self.routes.pop(short_id, None)
            case w.SetTree(origin, children):
                self.trees[origin] = children
            case w.InstallEpoch():
                return self._install(message)
            case w.ActivateEpoch(short_id, epoch):
                if (peer := self.peers.get(short_id)) is not None and epoch in peer.tx:
                    peer.active = peer.tx[epoch]
            case w.RetireEpoch(short_id, epoch):
                if (peer := self.peers.get(short_id)) is not None:
                    self._retire(peer, epoch)
            case _:
                return None
        return None

    def prefix(self, kind: int, peer: Peer, epoch: TxEpoch | None, *, hops: int) -> bytes:
        """The first 12 octets of every datagram to a peer; with 0 hops, the additional data."""
        us = self.us or 0
        if epoch is None:
            return PREFIX.pack(kind, hops, us, peer.short_id, 0, 0)
        return PREFIX.pack(kind, hops, us, peer.short_id, epoch.epoch, epoch.tag)

    def path(self, short_id: ShortID) -> tuple[ShortID, Neighbour, int] | None:
        """(next hop, its address, octets a datagram) towards a peer."""
        route = self.routes.get(short_id)
        if route is None or (via := self.neighbours.get(route.via)) is None:
            return None
        if route.via == short_id:
            return short_id, via, via.segment
        return route.via, via, min(route.segment, via.segment)

    def is_straight(self, short_id: ShortID) -> bool:
        """Whether what we send this peer goes to its own address, as probes do."""
        route = self.routes.get(short_id)
        return route is not None and route.via == short_id

    def badges(self) -> list[tuple[ShortID, int]]:
        """Whose, and the tag, of everything that may come sealed for us."""
        if not self.encrypted:
            return []
        return [(peer.short_id, rx.tag) for peer in self.peers.values() for rx in peer.rx.values()]

    def drop(self, reason: Drop, count: int = 1, *, of: ShortID | None = None) -> None:
        """``of``: the peer that it came from or was for."""
        self.drops[reason.value] += count
        if of in self.peers:
            self.peer_drops[of, reason.value] += count

    def _set_peer(self, told: w.SetPeer) -> None:
        short_id, name, mtu = told.short_id, told.name, told.mtu
        peer = self.peers.get(short_id)
        if peer is None or peer.name != name:
            self._drop_peer(short_id)
            peer = self.peers[short_id] = Peer(short_id, name, mtu, plain_seq=self._first)
        peer.mtu, peer.in_kernel = mtu, told.in_kernel

    def _drop_peer(self, short_id: ShortID) -> None:
        peer = self.peers.pop(short_id, None)
        if peer is not None:
            for epoch in list(peer.tx):
                self._retire(peer, epoch)
        self.neighbours.pop(short_id, None)
        self.routes.pop(short_id, None)
        self.macs.forget_place(short_id)
        for key in [key for key in self.peer_drops if key[0] == short_id]:
            del self.peer_drops[key]

    def _install(self, message: w.InstallEpoch) -> w.FromWorker | None:
        """Take keys that are new to us; those we hold stay as they are, counters and all."""
        peer = self.peers.get(message.short_id)
        if peer is None or any(tx.key == message.tx_key for tx in peer.tx.values()):
            return None
        self._retire(peer, message.epoch)
        while len(peer.tx) >= MAX_EPOCHS:
            self._retire(peer, next(e for e, tx in peer.tx.items() if tx is not peer.active))
        epoch, key, aead = message.epoch, message.tx_key, AEADS[message.cipher]
        peer.rx[epoch] = RxEpoch(aead(message.rx_key), message.rx_tag)
        peer.tx[epoch] = TxEpoch(epoch, key, aead(key), message.tx_tag, self._used)
        return w.EpochInstalled(message.short_id, epoch)

    def _retire(self, peer: Peer, epoch: int) -> None:
        peer.rx.pop(epoch, None)
        tx = peer.tx.pop(epoch, None)
        if tx is not None:
            self._used = max(self._used, tx.seq)
            if peer.active is tx:
                peer.active = None
