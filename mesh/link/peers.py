"""What the worker knows of other peers: keys by epoch, addresses, routes, trees.

Who drives it: the sleeve worker, by the daemon's messages (``mesh.wire.worker``).

Invariants: an (epoch, key) is installed at most once in a worker's life, and each sending epoch
counts its records from one: no nonce can come twice. Whatever names a short ID that was dropped
is gone with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.link.drops import Drop
from mesh.link.macs import MacTable
from mesh.link.replay import ReplayWindow
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import PREFIX


@dataclass(slots=True)
class RxEpoch:
    aead: AESGCM
    tag: int
    seen: ReplayWindow = field(default_factory=ReplayWindow)


@dataclass(slots=True)
class TxEpoch:
    """``seq`` is the number of the last record sealed under this key."""

    epoch: int
    aead: AESGCM
    tag: int
    seq: int = 0


@dataclass(slots=True)
class Peer:
    short_id: ShortID
    name: PeerName
    mtu: int
    rx: dict[int, RxEpoch] = field(default_factory=dict)
    tx: dict[int, TxEpoch] = field(default_factory=dict)
    active: TxEpoch | None = None
    plain_seq: int = 0
    tx_octets: int = 0
    rx_octets: int = 0


@dataclass(slots=True)
class Neighbour:
    endpoint: Endpoint
    segment: int


class Peers:
    """Tables and nothing else: no clock, no socket."""

    def __init__(self) -> None:
        self.us: ShortID | None = None
        self.mtu = 1420
        self.encrypted = True
        self.peers: dict[ShortID, Peer] = {}
        self.neighbours: dict[ShortID, Neighbour] = {}
        self.routes: dict[ShortID, tuple[ShortID, int]] = {}
        self.trees: dict[ShortID, tuple[ShortID, ...]] = {}
        self.macs = MacTable()
        self.drops: Counter[str] = Counter()
        self._installed: set[bytes] = set()

    def apply(self, message: w.ToWorker) -> w.FromWorker | None:
        """Do as the daemon says; the answer, where one is due."""
        match message:
            case w.Configure(short_id, _, mtu, encrypted):
                self.us, self.mtu, self.encrypted = short_id, mtu, encrypted
            case w.SetPeer(short_id, name, mtu):
                self._set_peer(short_id, name, mtu)
            case w.DropPeer(short_id):
                self._drop_peer(short_id)
            case w.SetNeighbour(short_id, endpoint, segment):
                self.neighbours[short_id] = Neighbour(endpoint, segment)
            case w.DropNeighbour(short_id):
                self.neighbours.pop(short_id, None)
            case w.SetRoute(short_id, next_hop, segment):
                self.routes[short_id] = (next_hop, segment)
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
                    peer.rx.pop(epoch, None)
                    peer.tx.pop(epoch, None)
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
        if route is None or (via := self.neighbours.get(route[0])) is None:
            return None
        return route[0], via, min(route[1], via.segment) if route[0] != short_id else via.segment

    def drop(self, reason: Drop, count: int = 1) -> None:
        self.drops[reason.value] += count

    def _set_peer(self, short_id: ShortID, name: PeerName, mtu: int) -> None:
        peer = self.peers.get(short_id)
        if peer is not None and peer.name == name:
            peer.mtu = mtu
            return
        self._drop_peer(short_id)
        self.peers[short_id] = Peer(short_id, name, mtu)

    def _drop_peer(self, short_id: ShortID) -> None:
        self.peers.pop(short_id, None)
        self.neighbours.pop(short_id, None)
        self.routes.pop(short_id, None)
        self.trees.pop(short_id, None)
        self.macs.forget_place(short_id)

    def _install(self, message: w.InstallEpoch) -> w.FromWorker | None:
        peer = self.peers.get(message.short_id)
        if peer is None or message.tx_key in self._installed:
            return None
        self._installed.add(message.tx_key)
        peer.rx[message.epoch] = RxEpoch(AESGCM(message.rx_key), message.rx_tag)
        peer.tx[message.epoch] = TxEpoch(message.epoch, AESGCM(message.tx_key), message.tx_tag)
        return w.EpochInstalled(message.short_id, message.epoch)
