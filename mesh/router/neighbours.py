"""Control connections: dialling, accepting, telling twins apart, and who is a neighbour.

Who drives it: ``mesh.router.router``. A *connection* is one TCP stream with its machine; a
*neighbour* is a peer that one established connection survives to.

    accepted/dialled --> handshake --Established--> neighbour --Close--> gone
                              `--------Close (a refusal)------------------^

Invariants: at most one connection a neighbour; every connection that was opened is closed by
exactly one CloseStream; after ``on_up`` a peer gets one ``on_down``, and ``on_up`` may repeat
before it when a newer connection takes the place of an older one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from mesh.clock import Instant
from mesh.connection.connection import (
    Connection,
    ConnectionEffect,
    Established,
    Local,
    Received,
    Remote,
)
from mesh.connection.maker import ConnectionMaker, MakerEffect, Target, survivor
from mesh.connection.maker import Dial as MakerDial
from mesh.connection.maker import PersistTargets as MakerPersist
from mesh.connection.reasons import Refusal
from mesh.effects import Arm, Close, Notify, Send
from mesh.names import Endpoint, PeerName, PeerUID
from mesh.router.effects import CloseStream, Dial, PersistTargets, Write
from mesh.router.events import ConnectionDown, ConnectionUp
from mesh.router.hub import Hub
from mesh.wire.control import Message, encode

MAX_REPLACED = 1024
"""Former UIDs of neighbours that are remembered."""

RECENT = 64
"""Ended connections and refused attempts that status remembers: a screenful."""

READ_DEADLINE = 60.0
"""Seconds a neighbour may leave our octets unread before the connection is given up: it holds
our memory, and a peer that reads nothing for a minute learns nothing either."""


@dataclass(slots=True)
class Stream:
    """One TCP connection and what became of it so far."""

    machine: Connection
    endpoint: Endpoint
    target: Target | None
    outbound: bool
    since: Instant
    remote: Remote | None = None
    admitted: bool = False
    """It was let stay, and counts as a connection and no longer as half-open."""
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection that is no more, kept for status."""

    at: Instant
    peer: PeerName | None
    remote: str
    reason: str
    by_peer: bool
    outbound: bool
    was_up: bool


class Neighbours:
    """All control connections of this peer."""

    def __init__(
        self,
        hub: Hub,
        features: Callable[[str], dict[str, str]],
        *,
        on_up: Callable[[PeerName], None],
        on_down: Callable[[PeerName, str], None],
        on_message: Callable[[PeerName, bytes], None],
    ) -> None:
        self._hub = hub
        self._features = features
        self._on_up, self._on_down, self._on_message = on_up, on_down, on_message
        self.maker = ConnectionMaker(
            hub.rng, limit=hub.config.limit, discovery=hub.config.discovery
        )
        self.streams: dict[int, Stream] = {}
        self.by_peer: dict[PeerName, int] = {}
        self.ended: deque[Ended] = deque(maxlen=RECENT)
        self._replaced: OrderedDict[tuple[PeerName, PeerUID], None] = OrderedDict()

    # ---- inputs

    def accepted(self, conn: int, endpoint: Endpoint) -> None:
        hub = self._hub
        welcome = self.maker.may_accept(hub.now)
        self.maker.accepted(hub.now)
        self._open(
            conn,
            Stream(self._machine(False, endpoint.host), endpoint, None, False, hub.now),
            welcome,
        )

    def dialled(self, conn: int, target: Target, endpoint: Endpoint) -> None:
        self._open(
            conn,
            Stream(self._machine(True, endpoint.host), endpoint, target, True, self._hub.now),
            True,
        )

    def dial_failed(self, target: Target, reason: str) -> None:
        hub = self._hub
        hub.count(reason)
        self.ended.append(Ended(hub.now, None, str(target), reason, False, True, False))
        hub.notify(ConnectionDown(None, str(target), reason, False, False))
        self.perform_maker(self.maker.dial_failed(target, reason, hub.now))

    def receive(self, conn: int, data: bytes) -> None:
        if (stream := self.streams.get(conn)) is not None:
            self._perform(conn, stream, stream.machine.receive_data(data, self._hub.now))

    def closed(self, conn: int) -> None:
        """The other end, or the network, closed the stream."""
        if (stream := self.streams.get(conn)) is not None:
            self._perform(conn, stream, stream.machine.receive_eof(self._hub.now))

    def paused(self, conn: int, is_paused: bool) -> PeerName | None:
        """The stream takes no more, or again: whose it is."""
        stream = self.streams.get(conn)
        if stream is None:
            return None
        stream.paused = is_paused
        hub = self._hub
        hub.deadlines.set(("unread", conn), Instant(hub.now + READ_DEADLINE) if is_paused else None)
        if stream.remote is None or self.by_peer.get(stream.remote.name) != conn:
            return None
        return stream.remote.name

    def handle_timer(self, key: tuple[object, ...]) -> None:
        match key:
            case ("conn", int(conn)) if (stream := self.streams.get(conn)) is not None:
                self._perform(conn, stream, stream.machine.handle_timer(self._hub.now))
            case ("unread", int(conn)) if conn in self.streams:
                self.close(conn, Refusal.NOT_READING)
            case ("maker",):
                self.perform_maker(self.maker.handle_timer(self._hub.now))
            case _:
                return

    # ---- orders

    def send(self, peer: PeerName, message: Message) -> bool:
        """Hand a message to the neighbour's connection; False when there is none."""
        conn = self.by_peer.get(peer)
        if conn is None:
            return False
        stream = self.streams[conn]
        self._perform(conn, stream, stream.machine.send(encode(message), self._hub.now))
        return True

    def is_paused(self, peer: PeerName) -> bool:
        return (conn := self.by_peer.get(peer)) is not None and self.streams[conn].paused

    def stream(self, peer: PeerName) -> Stream | None:
        return None if (conn := self.by_peer.get(peer)) is None else self.streams[conn]

    def close(self, conn: int, reason: str) -> None:
        if (stream := self.streams.get(conn)) is not None:
            self._perform(conn, stream, stream.machine.close(reason, self._hub.now))

    def close_peer(self, peer: PeerName, reason: str) -> None:
        if (conn := self.by_peer.get(peer)) is not None:
            self.close(conn, reason)

    def close_all(self, reason: str) -> None:
        for conn in list(self.streams):
            self.close(conn, reason)

    def perform_maker(self, effects: list[MakerEffect]) -> None:
        hub = self._hub
        for effect in effects:
            match effect:
                case MakerDial(target):
                    hub.emit(Dial(target))
                case MakerPersist(targets):
                    hub.emit(PersistTargets(targets))
                case Arm(deadline):
                    hub.deadlines.set(("maker",), deadline)

    # ---- inside

    def local(self, host: str = "") -> Local:
        """What we say of ourselves in a handshake that starts now, with who is at that address."""
        hub = self._hub
        return Local(
            identity=hub.identity,
            uid=hub.uid,
            nickname=hub.config.nickname,
            port=hub.config.port,
            probe_port=hub.config.probe_port,
            sleeve_port=hub.config.sleeve_port,
            passwords=hub.passwords,
            features=self._features(host),
        )

    def _machine(self, outbound: bool, host: str) -> Connection:
        hub = self._hub
        return Connection(self.local(host), outbound=outbound, kem=hub.kem, entropy=hub.entropy)

    def _open(self, conn: int, stream: Stream, welcome: bool) -> None:
        self.streams[conn] = stream
        self._perform(conn, stream, stream.machine.start(self._hub.now))
        if not welcome:
            self.close(conn, Refusal.BUSY)

    def _perform(
        self,
        conn: int,
        stream: Stream,
        effects: list[ConnectionEffect],
    ) -> None:
        hub = self._hub
        for effect in effects:
            match effect:
                case Send(data):
                    hub.emit(Write(conn, data))
                case Arm(deadline):
                    hub.deadlines.set(("conn", conn), deadline)
                case Close(reason):
                    self._ended(conn, stream, reason)
                case Notify(event):
                    self._happened(conn, stream, event)

    def _happened(self, conn: int, stream: Stream, event: Established | Received) -> None:
        match event:
            case Established(remote):
                self._established(conn, stream, remote)
            case Received(message):
                if stream.remote is not None and self.by_peer.get(stream.remote.name) == conn:
                    self._on_message(stream.remote.name, message)

    def _established(self, conn: int, stream: Stream, remote: Remote) -> None:
        stream.remote = remote
        if not self._may_stay(conn, stream, remote):
            return
        before = self.by_peer.get(remote.name)
        self.by_peer[remote.name] = conn
        hub = self._hub
        if before is not None:
            self.close(before, self._replace(self.streams[before], remote))
        hub.notify(ConnectionUp(remote.name, remote.nickname, stream.endpoint, stream.outbound))
        reached = Endpoint(stream.endpoint.host, remote.port)
        stream.admitted = True
        self.perform_maker(self.maker.established(stream.target, remote.name, reached, hub.now))
        self._on_up(remote.name)

    def _may_stay(self, conn: int, stream: Stream, remote: Remote) -> bool:
        """Whether a connection that just got established survives its rivals and the limit."""
        before = self.by_peer.get(remote.name)
        if before is None:
            if len(self.by_peer) >= self._hub.config.limit:
                self.close(conn, Refusal.LIMIT)
                return False
            return True
        rival = self.streams[before].remote
        assert rival is not None
        if rival.uid != remote.uid:
            if (remote.name, remote.uid) not in self._replaced:
                return True  # the peer started again; the old connection is a ghost
            # No peer goes back to a UID it had: two hosts have one identity, and both live.
            self.close(conn, Refusal.CLONE)
            return False
        if survivor(rival.handshake_hash, remote.handshake_hash) == remote.handshake_hash:
            return True
        self.close(conn, Refusal.DUPLICATE)
        return False

    def _replace(self, old: Stream, remote: Remote) -> str:
        """The reason for which the old connection gives way."""
        assert old.remote is not None
        if old.remote.uid == remote.uid:
            return Refusal.DUPLICATE
        self._replaced[old.remote.name, old.remote.uid] = None
        if len(self._replaced) > MAX_REPLACED:
            self._replaced.popitem(last=False)
        return Refusal.RESTARTED

    def _ended(self, conn: int, stream: Stream, reason: str) -> None:
        hub = self._hub
        del self.streams[conn]
        hub.deadlines.set(("conn", conn), None)
        hub.deadlines.set(("unread", conn), None)
        hub.emit(CloseStream(conn))
        hub.count(reason)
        remote = stream.remote
        name = None if remote is None else remote.name
        by_peer = stream.machine.refused_by_peer
        was_up = name is not None and self.by_peer.get(name) == conn
        where = str(stream.endpoint)
        self.ended.append(Ended(hub.now, name, where, reason, by_peer, stream.outbound, was_up))
        hub.notify(ConnectionDown(name, where, reason, by_peer, was_up))
        if stream.target is None and not stream.admitted:
            self.maker.rejected(hub.now)
        if remote is None:
            if stream.target is not None:
                self.perform_maker(self.maker.dial_failed(stream.target, reason, hub.now))
            return
        another = self.by_peer.get(remote.name) not in (None, conn)
        lost = self.maker.lost(stream.target, remote.name, reason, hub.now, another=another)
        self.perform_maker(lost)
        if was_up:
            del self.by_peer[remote.name]
            self._on_down(remote.name, reason)
