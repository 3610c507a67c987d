"""The sleeve worker's twin: frames over the simulated underlay, by the same messages.

It forwards by the routes, trees and keys it was told and nothing else. Sealing is a keyed hash:
a record opens only under the epoch and key it was made for, as the real one does.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct

from mesh.clock import Instant
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w

HOPS = 16
_HEAD = Struct("!BBHHH")  # kind, hops, src, dst, epoch
DATA, PROBE, REPLY = 1, 3, 4
IP_UDP = 28
"""Sizes and segments are of UDP payload; the underlay's MTU is of IPv4 packets."""


@dataclass
class SimPeer:
    name: PeerName
    rx: dict[int, bytes] = field(default_factory=dict)
    tx: dict[int, bytes] = field(default_factory=dict)
    active: int | None = None


class SimWorker:
    """``send(endpoint, datagram)`` is the underlay; ``deliver(src name, frame, broadcast)``."""

    def __init__(
        self,
        send: Callable[[Endpoint, bytes], None],
        say: Callable[[w.FromWorker], None],
        deliver: Callable[[PeerName, bytes], None],
        now: Callable[[], Instant],
    ) -> None:
        self._send, self._say, self._deliver, self._now = send, say, deliver, now
        self.device_mtu = 1 << 16
        """Of our own device: the kernel says when a datagram is larger."""
        self._sent: dict[ShortID, int] = {}
        self._relayed = 0
        self._us: w.Configure | None = None
        self._peers: dict[ShortID, SimPeer] = {}
        self._neighbours: dict[ShortID, w.SetNeighbour] = {}
        self._routes: dict[ShortID, w.SetRoute] = {}
        self._trees: dict[ShortID, tuple[ShortID, ...]] = {}
        self._probes: dict[int, tuple[int, Instant]] = {}
        self._installed: set[tuple[ShortID, int, bytes]] = set()
        self._seen: set[tuple[ShortID, int]] = set()
        self._sequence = 0
        self.drops: dict[str, int] = {}

    # ---- the daemon's messages

    def tell(self, message: w.ToWorker) -> None:
        match message:
            case w.Configure():
                self._us = message
            case w.SetPeer(short_id, name, _):
                peer = self._peers.setdefault(short_id, SimPeer(name))
                assert peer.name == name, "a short ID changed hands without DropPeer"
            case w.DropPeer(short_id):
                self._peers.pop(short_id, None)
                self._neighbours.pop(short_id, None)
                self._routes.pop(short_id, None)
            case w.SetNeighbour(short_id):
                assert short_id in self._peers
                self._neighbours[short_id] = message
            case w.DropNeighbour(short_id):
                self._neighbours.pop(short_id, None)
            case w.SetRoute(short_id):
                assert short_id in self._peers
                self._routes[short_id] = message
            case w.DropRoute(short_id):
                self._routes.pop(short_id, None)
            case w.SetTree(origin, children):
                self._trees[origin] = children
            case w.InstallEpoch(short_id, epoch, rx, tx, _, _, cipher):
                # Under another cipher the same key opens nothing.
                self._install(short_id, epoch, cipher.encode() + rx, cipher.encode() + tx)
            case w.ActivateEpoch(short_id, epoch):
                if short_id in self._peers and epoch in self._peers[short_id].tx:
                    self._peers[short_id].active = epoch
            case w.RetireEpoch(short_id, epoch):
                if short_id in self._peers:
                    assert self._peers[short_id].active != epoch
                    self._peers[short_id].rx.pop(epoch, None)
                    self._peers[short_id].tx.pop(epoch, None)
            case w.Probe(short_id, nonce, size):
                self._probe(short_id, nonce, size)
            case w.GetCounters():
                sent = tuple(w.PeerCounters(peer, octets, 0) for peer, octets in self._sent.items())
                self._say(w.Counters(0, 0, 0, 0, self._relayed, (), sent))
            case _:
                return

    def _install(self, short_id: ShortID, epoch: int, rx: bytes, tx: bytes) -> None:
        assert (short_id, epoch, tx) not in self._installed, "keys installed twice"
        self._installed.add((short_id, epoch, tx))
        if (peer := self._peers.get(short_id)) is not None:
            peer.rx[epoch], peer.tx[epoch] = rx, tx
            self._say(w.EpochInstalled(short_id, epoch))

    # ---- frames out

    def unicast(self, short_id: ShortID, frame: bytes) -> None:
        """A frame of a local pod for a pod behind that peer."""
        self._to_peer(short_id, b"U" + frame)

    def fill(self, short_id: ShortID, frame: bytes) -> None:
        """The same, the datagram as large as the path is believed to carry."""
        route = self._routes.get(short_id)
        via = None if route is None else self._neighbours.get(route.next_hop)
        room = 0
        if route is not None and via is not None:
            direct = route.next_hop == short_id
            room = via.segment if direct else min(route.segment, via.segment)
        head = _HEAD.size + 8 + 1 - IP_UDP
        self._to_peer(short_id, b"U" + frame.ljust(room - head, b"\0"))

    def broadcast(self, frame: bytes) -> None:
        """A group-addressed frame of a local pod: along our own tree."""
        assert self._us is not None
        self._sequence += 1
        envelope = b"B" + self._us.short_id.to_bytes(2, "big") + self._sequence.to_bytes(8, "big")
        for child in self._trees.get(self._us.short_id, ()):
            self._to_peer(child, envelope + bytes((HOPS,)) + frame)

    def _to_peer(self, dst: ShortID, plain: bytes) -> None:
        peer = self._peers.get(dst)
        if self._us is None or peer is None or dst not in self._routes:
            self._drop("no-route")
            return
        epoch, tag = 0, b"plain---"
        if self._us.encrypted:
            if peer.active is None:
                self._drop("no-key")
                return
            epoch = peer.active
            tag = hmac.digest(peer.tx[epoch], plain, "sha256")[:8]
        head = _HEAD.pack(DATA, HOPS, self._us.short_id, dst, epoch)
        self._sent[dst] = self._sent.get(dst, 0) + len(plain)
        self._forward(dst, head + tag + plain)

    def _forward(self, dst: ShortID, datagram: bytes) -> None:
        route = self._routes.get(dst)
        via = None if route is None else self._neighbours.get(route.next_hop)
        if via is None:
            self._drop("no-route")
            return
        assert route is not None
        self._out(route.next_hop, via.endpoint, datagram)

    def _out(self, hop: ShortID, endpoint: Endpoint, datagram: bytes) -> None:
        if len(datagram) > self.device_mtu:
            self._say(w.TooBig(hop, len(datagram) - IP_UDP))
        else:
            self._send(endpoint, datagram)

    # ---- datagrams in

    def receive(self, source: Endpoint, datagram: bytes) -> None:
        kind, hops, src, dst, epoch = _HEAD.unpack_from(datagram)
        if self._us is None:
            return
        if kind in (PROBE, REPLY):
            self._receive_probe(kind, ShortID(src), datagram, source)
        elif dst != self._us.short_id:
            if hops <= 1:
                self._drop("hop-limit")
            else:
                self._relayed += 1
                self._forward(dst, datagram[:1] + bytes((hops - 1,)) + datagram[2:])
        else:
            self._open(ShortID(src), epoch, datagram[_HEAD.size :])

    def _open(self, src: ShortID, epoch: int, body: bytes) -> None:
        assert self._us is not None
        peer = self._peers.get(src)
        if peer is None:
            self._drop("unknown-peer")
            return
        tag, plain = body[:8], body[8:]
        if self._us.encrypted:
            key = peer.rx.get(epoch)
            if key is None or hmac.digest(key, plain, "sha256")[:8] != tag:
                self._drop("unauthentic" if key else "unknown-epoch")
                return
        if plain[:1] == b"U":
            self._deliver(peer.name, plain[1:])
            return
        origin, sequence = ShortID(int.from_bytes(plain[1:3], "big")), plain[3:11]
        hops, frame = plain[11], plain[12:]
        mark = (origin, int.from_bytes(sequence, "big"))
        if mark in self._seen or origin == self._us.short_id:
            self._drop("duplicate")
            return
        self._seen.add(mark)
        if origin in self._peers:
            self._deliver(self._peers[origin].name, frame)
        if hops <= 1:
            return
        for child in self._trees.get(origin, ()):
            self._to_peer(child, plain[:11] + bytes((hops - 1,)) + frame)

    # ---- probes

    def _probe(self, short_id: ShortID, nonce: int, size: int) -> None:
        via = self._neighbours.get(short_id)
        if via is None or self._us is None:
            return
        self._probes[nonce] = (size, self._now())
        head = _HEAD.pack(PROBE, 1, self._us.short_id, short_id, 0)
        body = head + nonce.to_bytes(8, "big") + size.to_bytes(2, "big")
        self._out(short_id, via.endpoint, body.ljust(size + IP_UDP, b"\0"))

    def _receive_probe(self, kind: int, src: ShortID, data: bytes, source: Endpoint) -> None:
        nonce, size = int.from_bytes(data[8:16], "big"), int.from_bytes(data[16:18], "big")
        if kind == PROBE and src in self._peers:
            assert self._us is not None
            head = _HEAD.pack(REPLY, 1, self._us.short_id, src, 0)
            self._send(source, head + data[8:18])
        elif kind == REPLY and nonce in self._probes:
            asked, at = self._probes.pop(nonce)
            if asked == size:
                self._say(w.ProbeReplied(src, nonce, size, int((self._now() - at) * 1e6)))

    def _drop(self, reason: str) -> None:
        self.drops[reason] = self.drops.get(reason, 0) + 1
