"""The worker's main loop: the TAP, the socket, the daemon, and a tick a second."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from math import inf

from mesh.clock import Instant
from mesh.drivers.sleeve.abi import endpoint_from
from mesh.drivers.sleeve.bus import Bus
from mesh.drivers.sleeve.daemon import DaemonLink
from mesh.drivers.sleeve.gate import Gate
from mesh.drivers.sleeve.receiver import Receiver
from mesh.drivers.sleeve.sender import Sender
from mesh.drivers.sleeve.uplink import Uplink
from mesh.errors import MalformedMessageError
from mesh.link import probes
from mesh.link.broadcast import INCARNATION_BITS, Broadcasts
from mesh.link.drops import Drop, most_dropped
from mesh.link.lossmeter import LOOK, Overruns
from mesh.link.peers import Neighbour, Peer, Peers
from mesh.names import ShortID
from mesh.wire import worker as w
from mesh.wire.bus import Learned, Reported, Spread
from mesh.wire.sleeve import PROBE, PROBE_REPLY, REPORT, REPORT_BODY

TICK = 1.0
"""Seconds between looks at what ages, grows or is due."""

TOO_BIG_INTERVAL = 1.0
"""Seconds until the daemon is told of the same size on the same path again."""

MAX_TOLD = 4_096
GATE_CHANGES = (
    w.Configure, w.SetPeer, w.DropPeer, w.SetRoute, w.DropRoute, w.InstallEpoch, w.RetireEpoch
)  # fmt: skip
"""What changes the tags that datagrams for us may have, and whom we relay for."""


def _now() -> Instant:
    return Instant(time.monotonic())


class Worker:
    """``lane``: which of its host's workers it is; ``others``: sockets to those, by lane."""

    def __init__(
        self, tap: int, udp: int, control: int, lane: int = 0, others: Sequence[int] = ()
    ) -> None:
        self._daemon = DaemonLink(control)
        self._tap_fd, self._udp_fd = tap, udp
        self._socket = socket.socket(fileno=os.dup(udp))
        self._peers = peers = Peers(lane)
        self._bus = Bus(peers, lane, others) if others else None
        broadcasts = Broadcasts(int.from_bytes(os.urandom(INCARNATION_BITS // 8), "big"))
        self._sender = Sender(peers, udp, self._socket.family, self._too_big)
        # One worker sends and receives all broadcasts, or two could deliver the same one.
        spread = self._hand_over if lane else None
        self._uplink = Uplink(peers, tap, self._sender, broadcasts, spread)
        self._receiver = Receiver(
            peers, udp, self._uplink, self._sender, broadcasts, self._on_control
        )
        self._probes = probes.Probes()
        self._told_too_big: dict[tuple[ShortID, int], Instant] = {}
        self._gate = Gate(self._socket, peers)
        self._first_overruns = self._overruns()
        self._heard = Overruns(self._first_overruns)
        self._look_at = Instant(inf)

    def run(self) -> None:
        """Work until the daemon says so or is gone. Raises TapGoneError."""
        os.set_blocking(self._tap_fd, False)
        daemon, peers, poll = self._daemon, self._peers, select.epoll()
        lanes = self._bus.filenos() if self._bus is not None else []
        for fd in (self._tap_fd, self._udp_fd, daemon.fileno(), *lanes):
            poll.register(fd, select.EPOLLIN)
        daemon.say(w.Ready(os.getpid()))
        next_tick = _now() + TICK
        listening = select.EPOLLIN
        while daemon.open:
            wanted = select.EPOLLIN | (select.EPOLLOUT if daemon.is_waiting else 0)
            if wanted != listening:
                listening = wanted
                poll.modify(daemon.fileno(), wanted)
            events = poll.poll(max(0.0, min(next_tick, self._look_at) - _now()))
            now = _now()
            for fd, _ in events:
                if fd == self._udp_fd:
                    self._receiver.receive(now)
                    self._look_at = min(self._look_at, Instant(now + LOOK))
                elif fd == self._tap_fd:
                    self._uplink.read(now)
                elif fd in lanes:
                    self._hear(fd, now)
                else:
                    self._listen(now)
            if peers.macs.news:
                self._tell_news()
            if now >= self._look_at:
                self._look(now)
            if now >= next_tick:
                next_tick = now + TICK
                self._tick(now)

    def _tick(self, now: Instant) -> None:
        peers = self._peers
        self._receiver.tick(now)
        self._uplink.tick()
        self._gate.tick(now, idle=self._look_at == inf)
        peers.macs.age(now)
        for peer in peers.peers.values():
            peer.size.age(now)
            if (path := peers.path(peer.short_id)) is not None:
                peer.size.follow((path[0], path[1].endpoint), path[2])

    def _look(self, now: Instant) -> None:
        """What our peers sent us and what of it came, told to them while anything comes."""
        self._gate.glance(now)
        excess, standing = self._receiver.excess
        self._gate.shed(excess, standing=standing)
        self._heard.counted(self._overruns(), now)
        for peer, report in self._receiver.inbound.look(self._heard, now):
            self._sender.small(REPORT, peer, report)
        self._look_at = Instant(now + LOOK if self._receiver.inbound.is_waiting else inf)

    # ---- the daemon

    def _listen(self, now: Instant) -> None:
        daemon = self._daemon
        daemon.flush()
        for message in daemon.messages():
            match message:
                case w.Probe(short_id, number, size):
                    self._send_probe(short_id, number, size, now)
                case w.GetCounters():
                    daemon.say(self._counters())
                case w.GetMacs():
                    daemon.say(self._macs())
                case w.Shutdown():
                    daemon.open = False
                case (
                    w.Configure()
                    | w.SetPeer()
                    | w.DropPeer()
                    | w.SetNeighbour()
                    | w.DropNeighbour()
                    | w.SetRoute()
                    | w.DropRoute()
                    | w.SetTree()
                    | w.InstallEpoch()
                    | w.ActivateEpoch()
                    | w.RetireEpoch()
                ):
                    if isinstance(message, w.DropPeer):
                        self._receiver.inbound.forget(message.short_id)
                    answer = self._peers.apply(message)
                    if isinstance(message, GATE_CHANGES):
                        self._gate.refresh()  # before anybody hears that the epoch is installed
                    if answer is not None:
                        daemon.say(answer)
                case _:
                    daemon.malformed += 1  # our own answers, sent back

    def _counters(self) -> w.Counters:
        peers, inbound = self._peers, self._receiver.inbound
        drops = peers.drops.copy()
        drops[Drop.RECEIVE_FULL.value] += self._overruns() - self._first_overruns
        drops[Drop.MALFORMED.value] += self._daemon.malformed
        told = [p.counters() for p in peers.peers.values() if p.tx_octets or p.rx_octets]
        return w.Counters(
            tx_frames=self._uplink.frames,
            tx_octets=self._uplink.octets,
            rx_frames=inbound.frames,
            rx_octets=inbound.octets,
            relayed=self._receiver.relayed,
            drops=tuple(sorted((reason, n) for reason, n in drops.items() if n > 0)),
            peers=tuple(told[: w.MAX_PEERS_TOLD]),
            peer_drops=most_dropped(peers.peer_drops),
        )

    def _macs(self) -> w.Macs:
        places = self._peers.macs.places
        newest = list(places.items())[-w.MAX_MACS_TOLD :]
        return w.Macs(tuple((int.from_bytes(m, "big"), p) for m, p in newest), len(places))

    def _overruns(self) -> int:
        """Datagrams the kernel dropped because our socket's queue was full."""
        return self._gate.overruns()

    def _too_big(self, neighbour: ShortID, size: int) -> None:
        now, key = _now(), (neighbour, size)
        told = self._told_too_big.get(key)
        if told is None or now - told >= TOO_BIG_INTERVAL:
            if len(self._told_too_big) >= MAX_TOLD:
                self._told_too_big.clear()
            self._told_too_big[key] = now
            self._daemon.say(w.TooBig(neighbour, size))

    # ---- the other workers of this host

    def _hand_over(self, frame: bytes) -> None:
        assert self._bus is not None
        self._bus.say(0, Spread(frame))

    def _tell_news(self) -> None:
        macs = self._peers.macs
        if self._bus is not None:
            for mac, place in macs.news:
                self._bus.tell_all(Learned(mac, place))
        macs.news.clear()

    def _hear(self, fd: int, now: Instant) -> None:
        assert self._bus is not None
        try:
            for message in self._bus.messages(fd):
                match message:
                    case Learned(mac, place):
                        self._peers.macs.learn(mac, place, now, told=True)
                    case Spread(frame):
                        self._uplink.spread(frame)
                    case Reported(short_id, body):
                        if (peer := self._peers.peers.get(short_id)) is not None:
                            self._reported(peer, body, now)
        except ConnectionResetError:
            self._daemon.open = False

    @staticmethod
    def _reported(peer: Peer, body: bytes, now: Instant) -> None:
        _, _, came, missing, _ = REPORT_BODY.unpack(body)
        peer.size.reported(came, missing, now)

    # ---- what peers say to workers

    def _send_probe(self, short_id: ShortID, number: int, size: int, now: Instant) -> None:
        peers = self._peers
        peer, via = peers.peers.get(short_id), peers.neighbours.get(short_id)
        if peer is None or via is None:
            peers.drop(Drop.NO_ROUTE, of=short_id)
            return
        octets = size - probes.overhead(encrypted=peers.encrypted)
        self._probes.sent(number, size, now)
        peer.size.probed(size, straight=peers.is_straight(short_id))
        self._sender.small(PROBE, peer, probes.body(number, size, octets=octets), via=via)

    def _on_control(self, kind: int, peer: Peer, body: bytes, source: bytes, octets: int) -> None:
        """An authentic datagram that carries no frames."""
        now = _now()
        try:
            if kind == REPORT:
                if len(body) != REPORT_BODY.size:
                    raise MalformedMessageError(f"report of {len(body)} octets")
                self._reported(peer, body, now)
                if self._bus is not None:
                    self._bus.tell_all(Reported(peer.short_id, body))
                return
            number, size = probes.parse(body)
            if kind == PROBE_REPLY:
                rtt = self._probes.answered(number, size, now)
                if rtt is not None:
                    straight = self._peers.is_straight(peer.short_id)
                    peer.size.answered(size, straight=straight)
                    self._daemon.say(w.ProbeReplied(peer.short_id, number, size, int(rtt * 1e6)))
                return
            if size != octets:
                raise MalformedMessageError(f"probe of {octets} octets says {size}")
        except MalformedMessageError:
            self._peers.drop(Drop.MALFORMED)
            return
        self._answer(peer, number, size, source)

    def _answer(self, peer: Peer, number: int, size: int, source: bytes) -> None:
        """Answer a probe where it came from, and tell the daemon when that is news."""
        endpoint = endpoint_from(source)
        self._sender.small(
            PROBE_REPLY, peer, probes.body(number, size), via=Neighbour(endpoint, size)
        )
        known = self._peers.neighbours.get(peer.short_id)
        if known is None or known.endpoint != endpoint:
            self._daemon.say(w.ProbeSeen(peer.short_id, endpoint))
