"""The sleeve worker's twin: the real cores of the data path over the simulated underlay.

Tables and keys (``Peers``), admission, reassembly, replay windows, loss (``Inbound``), broadcasts
and the size of records are the worker's own, and what crosses is what it sends, sealed by the real
ciphers. Only what its drivers do is done here: cut a record into datagrams, hand them on, wait.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Instant
from mesh.errors import MalformedMessageError
from mesh.link import probes
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.inbound import Inbound
from mesh.link.lossmeter import LOOK, Overruns
from mesh.link.peers import Neighbour, Peer, Peers
from mesh.link.records import broadcast_record, next_number, seal, unicast_record
from mesh.link.slotsize import SlotSize
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import (
    DATA,
    FRAME_LENGTH,
    HEADER,
    HEADER_SIZE,
    HOP_LIMIT,
    MAX_DATAGRAMS,
    MAX_RECORD,
    PLAIN,
    PROBE,
    PROBE_REPLY,
    REPORT,
    REPORT_BODY,
    TAG_SIZE,
    VNET_SIZE,
)

IP_UDP = 28
"""Sizes and segments are of UDP payload; the underlay's MTU is of IPv4 packets."""

TICK = 1.0
ETHERNET = 14
FRAME_HEAD = VNET_SIZE + ETHERNET
BROADCAST = b"\xff" * 6
OWN_TYPE = b"\x88\xb5"
"""EtherType of frames that the worker makes itself for who asks it to send something."""

_UNDERLAY = bytes(IP_UDP)

Timer = Callable[[float, Callable[[], None]], None]


class SimWorker:
    """``send(endpoint, datagram)`` is the underlay; ``deliver(src name, frame)`` are the pods;
    ``later(seconds, action)`` acts only while this worker lives."""

    def __init__(
        self,
        send: Callable[[Endpoint, bytes], None],
        say: Callable[[w.FromWorker], None],
        deliver: Callable[[PeerName, bytes], None],
        now: Callable[[], Instant],
        later: Timer,
    ) -> None:
        self._send, self._say, self._deliver, self._now = send, say, deliver, now
        self._later = later
        self.bridge: Callable[[PeerName, bytes], None] = lambda _src, _frame: None
        """Takes frames of pods that sent them through ``from_device``, whole."""
        self.device_mtu = 1 << 16
        """Of our own device: the kernel says when a datagram is larger."""
        self._name: PeerName | None = None
        self._relayed = 0
        self.peers = Peers()
        # No two workers of one host start in the same microsecond.
        self._broadcasts = Broadcasts(int(now() * 1e6))
        self._inbound = Inbound(
            self.peers,
            self._broadcasts,
            SlotSize(1448),
            deliver=self._to_pods,
            send=self._record,
            control=self._control,
        )
        self._probes = probes.Probes()
        self._overruns = Overruns()
        self._installed: set[tuple[ShortID, int, bytes]] = set()
        self._is_looking = False
        later(TICK, self._tick)

    # ---- the daemon's messages

    def tell(self, message: w.ToWorker) -> None:
        match message:
            case w.Probe(short_id, nonce, size):
                self._probe(short_id, nonce, size)
                return
            case w.GetCounters():
                self._say(self._counters())
                return
            case w.Configure(_, name):
                self._name = name
            case w.SetPeer(short_id, name):
                peer = self.peers.peers.get(short_id)
                assert peer is None or peer.name == name, "a short ID changed hands, no DropPeer"
            case w.DropPeer(short_id):
                self._inbound.forget(short_id)
            case w.SetNeighbour(short_id) | w.SetRoute(short_id):
                assert short_id in self.peers.peers
            case w.InstallEpoch(short_id, epoch, _, key):
                assert (short_id, epoch, key) not in self._installed, "keys installed twice"
                self._installed.add((short_id, epoch, key))
            case w.RetireEpoch(short_id, epoch):
                peer = self.peers.peers.get(short_id)
                active = None if peer is None else peer.active
                assert active is None or active.epoch != epoch, "an active epoch retired"
            case _:
                pass
        answer = self.peers.apply(message)
        if answer is not None:
            self._say(answer)

    def _counters(self) -> w.Counters:
        told = [p.counters() for p in self.peers.peers.values() if p.tx_octets or p.rx_octets]
        return w.Counters(0, 0, 0, 0, self._relayed, (), tuple(told))

    def _tick(self) -> None:
        now = self._now()
        self._inbound.age(now)
        self.peers.macs.age(now)
        for peer in self.peers.peers.values():
            peer.size.age(now)
            if (path := self.peers.path(peer.short_id)) is not None:
                peer.size.follow((path[0], path[1].endpoint), path[2])
        self._later(TICK, self._tick)

    # ---- frames out

    def from_device(self, frame: bytes) -> None:
        """An Ethernet frame from our bridge."""
        peers, whole = self.peers, bytes(VNET_SIZE) + frame
        if peers.us is None:
            peers.drop(Drop.NOT_CONFIGURED)
            return
        if frame[0] & 1:
            record = broadcast_record((peers.us, self._broadcasts.number(), HOP_LIMIT), whole)
            for child in peers.trees.get(peers.us, ()):
                if (peer := peers.peers.get(child)) is not None:
                    self._record(peer, record)
            return
        place = peers.macs.places.get(frame[:6])
        known = None if place is None else peers.peers.get(place)
        asked = [p for p in peers.peers.values() if not p.in_kernel]
        for peer in asked if known is None else [known]:
            self._record(peer, unicast_record(whole))

    def unicast(self, short_id: ShortID, frame: bytes) -> None:
        """A frame of a local pod for a pod behind that peer."""
        peer = self.peers.peers.get(short_id)
        if peer is not None:
            self._record(peer, unicast_record(self._framed(peer.name, frame)))

    def fill(self, short_id: ShortID, frame: bytes) -> None:
        """The same, in one datagram as large as the path is believed to carry."""
        path = self.peers.path(short_id)
        if path is not None:
            sealed = TAG_SIZE if self.peers.encrypted else 0
            room = path[2] - HEADER_SIZE - sealed - FRAME_LENGTH.size - FRAME_HEAD
            self.unicast(short_id, frame.ljust(room, b"\0"))

    def bulk(self, short_id: ShortID, mark: bytes, octets: int, *, single: bool) -> int:
        """A record of a stream that has so many octets ready, its frame beginning with ``mark``;
        how many octets it took. As large as the path's loss allows, or one datagram."""
        peer, path = self.peers.peers.get(short_id), self.peers.path(short_id)
        if peer is None or path is None:
            return octets
        most = path[2] - HEADER_SIZE - TAG_SIZE if single else peer.size.limit
        head = FRAME_LENGTH.size + FRAME_HEAD
        size = max(len(mark), min(octets, most - head))
        before = peer.tx_datagrams
        self._record(peer, unicast_record(self._framed(peer.name, mark.ljust(size, b"\0"))))
        if peer.size.segment == path[2] and most < MAX_RECORD:
            most = 1 if single else peer.size.datagrams
            assert peer.tx_datagrams - before <= most, "a record of more datagrams than it should"
        return size

    def broadcast(self, frame: bytes) -> None:
        """A group-addressed frame of a local pod: along our own tree."""
        us = self.peers.us
        assert us is not None
        whole = self._framed(None, frame)
        record = broadcast_record((us, self._broadcasts.number(), HOP_LIMIT), whole)
        for child in self.peers.trees.get(us, ()):
            if (peer := self.peers.peers.get(child)) is not None:
                self._record(peer, record)

    def _framed(self, to: PeerName | None, frame: bytes) -> bytes:
        """Behind an offload header, from our one pod to another's or to all."""
        assert self._name is not None
        target = BROADCAST if to is None else _mac(to)
        return bytes(VNET_SIZE) + target + _mac(self._name) + OWN_TYPE + frame

    def _record(self, peer: Peer, frames: memoryview) -> None:
        path = self.peers.path(peer.short_id)
        epoch = peer.active if self.peers.encrypted else None
        if path is None or (epoch is None and self.peers.encrypted):
            self.peers.drop(Drop.NO_ROUTE if path is None else Drop.NO_KEY)
            return
        kind = PLAIN if epoch is None else DATA
        seq = next_number(peer, epoch)
        body = seal(epoch, seq, self.peers.prefix(kind, peer, epoch, hops=0), bytes(frames))
        payload = path[2] - HEADER_SIZE
        total = -(-len(body) // payload)
        assert total <= MAX_DATAGRAMS
        peer.tx_octets += len(frames)
        peer.tx_frames += 1
        peer.tx_records += 1
        peer.tx_datagrams += total
        head = self.peers.prefix(kind, peer, epoch, hops=HOP_LIMIT) + seq.to_bytes(8, "big")
        for index in range(total):
            piece = body[index * payload : (index + 1) * payload]
            self._out(path[0], path[1].endpoint, head + bytes((index, total, 0, 0)) + piece)

    def _small(self, kind: int, peer: Peer, body: bytes, via: Neighbour | None = None) -> None:
        """A record of one datagram that carries no frames."""
        path = self.peers.path(peer.short_id) if via is None else (peer.short_id, via, 0)
        epoch = peer.active if self.peers.encrypted else None
        if path is None or (epoch is None and self.peers.encrypted):
            self.peers.drop(Drop.NO_ROUTE if path is None else Drop.NO_KEY)
            return
        seq = next_number(peer, epoch)
        sealed = seal(epoch, seq, self.peers.prefix(kind, peer, epoch, hops=0), body)
        hops = HOP_LIMIT if via is None else 1
        head = self.peers.prefix(kind, peer, epoch, hops=hops) + seq.to_bytes(8, "big")
        self._out(path[0], path[1].endpoint, head + b"\0\1\0\0" + sealed)

    def _out(self, hop: ShortID, endpoint: Endpoint, datagram: bytes) -> None:
        if len(datagram) + IP_UDP > self.device_mtu:
            self._say(w.TooBig(hop, len(datagram)))
        else:
            self._send(endpoint, _UNDERLAY + datagram)

    # ---- datagrams in

    def receive(self, source: Endpoint, datagram: bytes) -> None:
        data = datagram[IP_UDP:]
        _, hops, src, dst, *_ = HEADER.unpack_from(data)
        if self.peers.us is None:
            return
        if dst != self.peers.us:
            self._relay(ShortID(src), ShortID(dst), hops, data)
            return
        self._inbound.datagram(data, f"{source.host}/{source.port}".encode(), self._now())
        self.peers.macs.news.clear()
        if not self._is_looking:
            self._is_looking = True
            self._later(LOOK, self._look)

    def _relay(self, src: ShortID, dst: ShortID, hops: int, data: bytes) -> None:
        path = self.peers.path(dst)
        if src not in self.peers.peers:
            self.peers.drop(Drop.UNKNOWN_PEER)
        elif hops <= 1:
            self.peers.drop(Drop.HOP_LIMIT)
        elif path is None:
            self.peers.drop(Drop.NO_ROUTE)
        else:
            self._relayed += 1
            self._out(path[0], path[1].endpoint, data[:1] + bytes((hops - 1,)) + data[2:])

    def _look(self) -> None:
        for peer, report in self._inbound.look(self._overruns, self._now()):
            self._small(REPORT, peer, report)
        self._is_looking = self._inbound.is_waiting
        if self._is_looking:
            self._later(LOOK, self._look)

    def _to_pods(self, frame: memoryview) -> None:
        """Whom it is from is told by where its source was learned, as any answer to it would be."""
        place = self.peers.macs.places[bytes(frame[VNET_SIZE + 6 : VNET_SIZE + 12])]
        peer = self.peers.peers.get(place)
        if peer is None:
            return
        if bytes(frame[FRAME_HEAD - 2 : FRAME_HEAD]) == OWN_TYPE:
            self._deliver(peer.name, bytes(frame[FRAME_HEAD:]))
        else:
            self.bridge(peer.name, bytes(frame[VNET_SIZE:]))

    # ---- what peers say to workers

    def _probe(self, short_id: ShortID, nonce: int, size: int) -> None:
        peer, via = self.peers.peers.get(short_id), self.peers.neighbours.get(short_id)
        if peer is None or via is None:
            self.peers.drop(Drop.NO_ROUTE)
            return
        octets = size - probes.overhead(encrypted=self.peers.encrypted)
        self._probes.sent(nonce, size, self._now())
        peer.size.probed(size, straight=self.peers.is_straight(short_id))
        self._small(PROBE, peer, probes.body(nonce, size, octets=octets), via)

    def _control(self, kind: int, peer: Peer, body: bytes, source: bytes, octets: int) -> None:
        now = self._now()
        if kind == REPORT:
            _, _, came, missing, _ = REPORT_BODY.unpack(body)
            peer.size.reported(came, missing, now)
            return
        try:
            nonce, size = probes.parse(body)
        except MalformedMessageError:
            self.peers.drop(Drop.MALFORMED)
            return
        if kind == PROBE_REPLY:
            took = self._probes.answered(nonce, size, now)
            if took is not None:
                straight = self.peers.is_straight(peer.short_id)
                peer.size.answered(size, straight=straight)
                self._say(w.ProbeReplied(peer.short_id, nonce, size, int(took * 1e6)))
        elif size == octets:
            host, _, port = source.decode().partition("/")
            endpoint = Endpoint(host, int(port))
            self._small(PROBE_REPLY, peer, probes.body(nonce, size), Neighbour(endpoint, size))
            known = self.peers.neighbours.get(peer.short_id)
            if known is None or known.endpoint != endpoint:
                self._say(w.ProbeSeen(peer.short_id, endpoint))


def _mac(of: PeerName) -> bytes:
    """Of the one pod of each host."""
    return b"\x02" + of.octets[:5]
