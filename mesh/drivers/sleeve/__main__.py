"""The worker's main loop: ``python -m mesh.drivers.sleeve --tap-fd N --udp-fd N --control-fd N``.

The daemon opens the devices and hands them over; the worker holds no name, no file and no
address of its own. It ends when the daemon closes the control socket.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import time

from mesh.clock import Instant
from mesh.drivers.sleeve.receiver import Receiver
from mesh.drivers.sleeve.sender import Sender
from mesh.drivers.sleeve.uplink import Uplink
from mesh.errors import MalformedMessageError
from mesh.link.drops import Drop
from mesh.link.peers import Neighbour, Peer, Peers
from mesh.names import Endpoint, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import (
    HEADER_SIZE,
    PROBE,
    PROBE_BODY,
    PROBE_REPLY,
    TAG_SIZE,
    nonce,
)

TICK = 1.0
MAX_PROBES = 4096
"""Probes whose answers are waited for; the oldest are given up."""


class Worker:
    def __init__(self, tap: int, udp: int, control: int) -> None:
        self._control = socket.socket(fileno=control)
        self._control.setblocking(False)
        sock = socket.socket(fileno=os.dup(udp))
        family = sock.family
        sock.close()
        self._tap_fd, self._udp_fd = tap, udp
        self._peers = Peers()
        self._sender = Sender(self._peers, udp, family, self._too_big)
        # Broadcasts are numbered by the clock, so that a new worker goes on where none was.
        self._uplink = Uplink(self._peers, tap, self._sender, time.time_ns())
        self._receiver = Receiver(self._peers, udp, tap, self._sender, self._on_probe)
        self._probes: dict[int, tuple[int, float]] = {}
        self._told_too_big: dict[tuple[ShortID, int], float] = {}
        self._running = True

    def run(self) -> None:
        os.set_blocking(self._tap_fd, False)
        poll = select.epoll()
        control = self._control.fileno()
        for fd in (self._tap_fd, self._udp_fd, control):
            poll.register(fd, select.EPOLLIN)
        self._say(w.Ready(os.getpid()))
        next_tick = time.monotonic() + TICK
        while self._running:
            events = poll.poll(max(0.0, next_tick - time.monotonic()))
            now = Instant(time.monotonic())
            for fd, _ in events:
                if fd == self._udp_fd:
                    self._receiver.receive(now)
                elif fd == self._tap_fd:
                    self._uplink.read(now)
                else:
                    self._listen()
            if now >= next_tick:
                next_tick = now + TICK
                self._receiver.tick(now)
                self._uplink.tick()
                self._peers.macs.age(now)

    # ---- the daemon

    def _listen(self) -> None:
        while self._running:
            try:
                packet = self._control.recv(w.MAX_PACKET)
            except BlockingIOError:
                return
            if not packet:
                self._running = False
                return
            try:
                self._obey(w.decode(packet))
            except MalformedMessageError:
                self._peers.drop(Drop.MALFORMED)

    def _obey(self, message: w.Message) -> None:
        match message:
            case w.Probe(short_id, number, size):
                self._send_probe(short_id, number, size)
            case w.GetCounters():
                self._say(self._counters())
            case w.GetMacs():
                places = self._peers.macs.places
                entries = tuple((int.from_bytes(m, "big"), p) for m, p in places.items())
                self._say(w.Macs(entries[:4096]))
            case w.Shutdown():
                self._running = False
            case w.DropPeer(short_id):
                self._peers.apply(message)
                self._receiver.forget(short_id)
            case (
                w.Configure()
                | w.SetPeer()
                | w.SetNeighbour()
                | w.DropNeighbour()
                | w.SetRoute()
                | w.DropRoute()
                | w.SetTree()
                | w.InstallEpoch()
                | w.ActivateEpoch()
                | w.RetireEpoch()
            ):
                answer = self._peers.apply(message)
                if answer is not None:
                    self._say(answer)
            case _:
                return

    def _say(self, message: w.FromWorker) -> None:
        try:
            self._control.send(w.encode(message))
        except BlockingIOError:
            return  # the daemon is busy: probes and counters come again
        except OSError:
            self._running = False

    def _counters(self) -> w.Counters:
        peers = self._peers
        return w.Counters(
            tx_frames=self._uplink.frames,
            tx_octets=self._uplink.octets,
            rx_frames=self._receiver.frames,
            rx_octets=self._receiver.octets,
            relayed=self._receiver.relayed,
            drops=tuple(sorted(peers.drops.items())),
            peers=tuple((p.short_id, p.tx_octets, p.rx_octets) for p in peers.peers.values()),
        )

    def _too_big(self, neighbour: ShortID, size: int) -> None:
        now = time.monotonic()
        if now - self._told_too_big.get((neighbour, size), -TICK) >= TICK:
            if len(self._told_too_big) > MAX_PROBES:
                self._told_too_big.clear()
            self._told_too_big[neighbour, size] = now
            self._say(w.TooBig(neighbour, size))

    # ---- probes

    def _send_probe(self, short_id: ShortID, number: int, size: int) -> None:
        peer, via = self._peers.peers.get(short_id), self._peers.neighbours.get(short_id)
        if peer is None or via is None:
            self._peers.drop(Drop.NO_ROUTE)
            return
        if len(self._probes) >= MAX_PROBES:
            del self._probes[next(iter(self._probes))]
        self._probes[number] = (size, time.monotonic())
        self._probe(PROBE, peer, via, number, size, size)

    def _probe(
        self, kind: int, peer: Peer, via: Neighbour, number: int, size: int, octets: int
    ) -> None:
        """A probe or reply about ``size``, itself of ``octets`` of UDP payload."""
        peers = self._peers
        epoch = peer.active if peers.encrypted else None
        if peers.encrypted and epoch is None:
            peers.drop(Drop.NO_KEY)
            return
        overhead = HEADER_SIZE + (TAG_SIZE if epoch is not None else 0)
        body = PROBE_BODY.pack(number, size).ljust(octets - overhead, b"\0")
        prefix = peers.prefix(kind, peer, epoch, hops=2)
        if epoch is None:
            peer.plain_seq = seq = peer.plain_seq + 1
        else:
            epoch.seq = seq = epoch.seq + 1
            aad = peers.prefix(kind, peer, epoch, hops=0)
            body = epoch.aead.encrypt(nonce(seq), body, aad)
        header = prefix + seq.to_bytes(8, "big") + bytes((0, 1, 0, 0))
        self._sender.datagram(header + body, peer.short_id, via)

    def _on_probe(
        self, kind: int, peer: Peer, body: memoryview, source: Endpoint, octets: int
    ) -> None:
        if len(body) < PROBE_BODY.size:
            self._peers.drop(Drop.MALFORMED)
            return
        number, size = PROBE_BODY.unpack_from(body)
        if kind == PROBE:
            if size != octets:
                self._peers.drop(Drop.MALFORMED)
                return
            self._probe(PROBE_REPLY, peer, Neighbour(source, 0), number, size, 0)
            self._say(w.ProbeSeen(peer.short_id, source))
            return
        sent = self._probes.pop(number, None)
        if sent is not None and sent[0] == size:
            rtt = int((time.monotonic() - sent[1]) * 1e6)
            self._say(w.ProbeReplied(peer.short_id, number, size, rtt))


def main() -> None:
    parser = argparse.ArgumentParser(prog="mesh.drivers.sleeve")
    for name in ("tap", "udp", "control"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    args = parser.parse_args()
    Worker(args.tap_fd, args.udp_fd, args.control_fd).run()


if __name__ == "__main__":
    main()
