"""The direct data paths to neighbours: is each up, how good is it, does it carry traffic.

Who drives it: ``mesh.router.links``. One ``LinkProbe`` a neighbour; its probes go through the
worker. A path that works outlives the control connection it was made for, for as long as it is
answered (docs/protocol.md 8.6): what broke is another protocol, perhaps another way.

Invariant: a path is ``up`` only while its probes are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from mesh.clock import Instant
from mesh.connection.reasons import Refusal
from mesh.effects import Arm, Notify
from mesh.link.linkprobe import (
    LinkDown,
    LinkEffect,
    LinkEvent,
    LinkProbe,
    LinkUp,
    Measured,
    SegmentChanged,
    SendProbe,
    SteadyChanged,
)
from mesh.names import Endpoint, PeerName, PeerUID
from mesh.router.events import LinkChanged
from mesh.router.hub import Hub

FIRST_SEGMENT = 1200
"""UDP payload octets a datagram before the path is measured: fits the smallest IPv6 underlay."""

LET_GO = frozenset({Refusal.SHUTDOWN, Refusal.FORGOTTEN, Refusal.RESTARTED})
"""Ends of a connection that were meant: the direct path ends with it."""


@dataclass(slots=True)
class Direct:
    """``connected``: whether there is a control connection.

    ``answered_at``: the last answer of a path that is down, the first of one that is up.
    """

    probe: LinkProbe
    endpoint: Endpoint
    uid: PeerUID
    running: bool = False
    connected: bool = True
    up: bool = False
    segment: int = FIRST_SEGMENT
    rtt: float | None = None
    reason: str = "not-probed"
    since: Instant = field(default=Instant(0.0))
    answered_at: Instant | None = None

    @property
    def steady(self) -> bool:
        """Whether it is worth as much as its round trip says."""
        return self.probe.steady

    @property
    def is_orphan(self) -> bool:
        """Whether it works and there is no connection to tell the mesh of it."""
        return self.up and not self.connected


class Directs:
    """``send(peer, nonce, size)`` hands a probe to the worker."""

    def __init__(
        self,
        hub: Hub,
        *,
        send: Callable[[PeerName, int, int], None],
        on_change: Callable[[], None],
        on_measured: Callable[[], None],
    ) -> None:
        self._hub, self._send = hub, send
        self._on_change, self._on_measured = on_change, on_measured
        self.by_peer: dict[PeerName, Direct] = {}

    # ---- connections

    def connected(self, peer: PeerName, endpoint: Endpoint, uid: PeerUID) -> None:
        """Begin to prove the direct path to a neighbour, or go on over its new address.

        What was seen of a peer before it started again says nothing of its path.
        """
        known = self.by_peer.get(peer)
        if known is not None and known.uid == uid:
            known.endpoint, known.connected = endpoint, True
            return
        if known is not None:
            self._let_go(peer, known, Refusal.RESTARTED)
        self.by_peer[peer] = Direct(LinkProbe(self._hub.rng), endpoint, uid, since=self._hub.now)

    def disconnected(self, peer: PeerName, reason: str) -> None:
        """The connection is gone. A path that works stays while it is answered."""
        direct = self.by_peer.get(peer)
        if direct is None:
            return
        direct.connected = False
        if not direct.up or reason in LET_GO:
            self._let_go(peer, direct, "connection-lost")

    @property
    def up(self) -> set[PeerName]:
        return {peer for peer, direct in self.by_peer.items() if direct.up}

    @property
    def segments(self) -> dict[PeerName, int]:
        """Of the paths whose search for it is over."""
        return {p: d.segment for p, d in self.by_peer.items() if d.up and d.probe.is_settled}

    def keep_orphans(self, of: Collection[PeerName]) -> None:
        """Let those go that nobody knows any more."""
        orphans = {peer for peer, direct in self.by_peer.items() if direct.is_orphan}
        for peer in orphans - set(of):
            self._let_go(peer, self.by_peer[peer], "connection-lost")

    # ---- the worker

    def start(self, able: Callable[[PeerName], str | None]) -> None:
        """Probe every path whose datagrams could be understood; else ``able`` says why not."""
        for peer, direct in self.by_peer.items():
            if direct.running:
                continue
            problem = able(peer)
            if problem is not None:
                direct.reason = problem or direct.reason
                continue
            direct.running = True
            self._perform(peer, direct, direct.probe.start(self._hub.now))

    def worker_restarted(self) -> None:
        for peer, direct in list(self.by_peer.items()):
            direct.probe = LinkProbe(self._hub.rng)
            direct.running = False
            self._down(peer, direct, "worker-restarted")

    def worker_lost(self, reason: str) -> None:
        for peer, direct in list(self.by_peer.items()):
            self._hub.deadlines.set(("probe", peer), None)
            direct.running = False
            self._down(peer, direct, reason)

    def handle_timer(self, peer: PeerName) -> None:
        if (direct := self.by_peer.get(peer)) is not None:
            self._perform(peer, direct, direct.probe.handle_timer(self._hub.now))

    def replied(self, peer: PeerName, nonce: int, size: int, rtt: float) -> None:
        if (direct := self.by_peer.get(peer)) is not None:
            self._perform(peer, direct, direct.probe.replied(nonce, size, rtt, self._hub.now))

    def too_big(self, peer: PeerName, size: int) -> None:
        if (direct := self.by_peer.get(peer)) is not None:
            self._perform(peer, direct, direct.probe.too_big(size, self._hub.now))

    def traffic(self, peer: PeerName) -> None:
        """Frames go over this path: it is watched closely for a while."""
        if (direct := self.by_peer.get(peer)) is not None:
            self._perform(peer, direct, direct.probe.traffic(self._hub.now))

    def moved(self, peer: PeerName, endpoint: Endpoint) -> None:
        """A neighbour's authenticated datagrams come from elsewhere: it sits behind a NAT."""
        direct = self.by_peer.get(peer)
        if direct is not None and direct.endpoint != endpoint:
            direct.endpoint = endpoint
            self._on_change()

    # ---- inside

    def _perform(self, peer: PeerName, direct: Direct, effects: list[LinkEffect]) -> None:
        for effect in effects:
            match effect:
                case SendProbe(nonce, size):
                    self._send(peer, nonce, size)
                case Arm(deadline):
                    known = self.by_peer.get(peer) is direct
                    self._hub.deadlines.set(("probe", peer), deadline if known else None)
                case Notify(event):
                    self._happened(peer, direct, event)

    def _happened(self, peer: PeerName, direct: Direct, event: LinkEvent) -> None:
        now = self._hub.now
        match event:
            case LinkUp(rtt, segment):
                direct.up, direct.rtt, direct.segment = True, rtt, segment
                direct.reason = "probes-answered" if direct.steady else "on-trial"
                direct.since = direct.answered_at = now
                self._hub.notify(LinkChanged(peer, True, direct.reason))
            case LinkDown(reason, silence):
                self._down(peer, direct, reason, silence)
            case SegmentChanged(segment):
                direct.segment = segment
            case SteadyChanged(steady):
                direct.reason = "proven" if steady else "lossy"
            case Measured(rtt):
                direct.rtt = rtt
                self._on_measured()
                return
        self._on_change()

    def _down(self, peer: PeerName, direct: Direct, reason: str, silence: float = 0.0) -> None:
        direct.reason = reason
        if not direct.up:
            return
        now = self._hub.now
        direct.up, direct.since = False, now
        direct.answered_at = Instant(now - silence)
        self._hub.notify(LinkChanged(peer, False, reason))
        self._on_change()
        if not direct.connected:
            self._let_go(peer, direct, reason)

    def _let_go(self, peer: PeerName, direct: Direct, reason: str) -> None:
        """End a direct path: nobody is to be asked any more."""
        self.by_peer.pop(peer, None)
        self._hub.deadlines.set(("probe", peer), None)
        if direct.up:
            direct.up = False
            self._hub.notify(LinkChanged(peer, False, reason))
        self._on_change()
