"""What a router shows of itself: plain values, ages in seconds, names as printed.

One structure feeds ``weaver status``, ``/v1`` and the metrics, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.connection.reasons import explain
from mesh.names import PeerName
from mesh.router.link_status import LinkStatus, link_status

if TYPE_CHECKING:
    from mesh.router.router import Router


@dataclass(frozen=True, slots=True)
class UsStatus:
    name: str
    uid: str
    nickname: str
    short_id: int | None
    version: int
    encrypted: bool
    passwords: tuple[str, ...]
    mtu: int
    port: int
    sleeve_port: int
    probe_port: int
    worker: str
    clone_suspected: bool
    ciphers: dict[str, int]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    name: str
    nickname: str
    uid: str
    short_id: int | None
    version: int
    program: str
    mtu: int
    reachable: bool
    connections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """An open connection, or one that ended lately (``state`` "ended" or "refused")."""

    peer: str | None
    nickname: str | None
    remote: str
    outbound: bool
    state: str
    reason: str | None
    by_peer: bool
    explanation: str | None
    age: float
    rtt: float | None
    password: str | None
    paused: bool


@dataclass(frozen=True, slots=True)
class TargetStatus:
    target: str
    state: str
    origin: str
    last_error: str | None
    tries: int
    next_attempt_in: float | None
    peer: str | None


@dataclass(frozen=True, slots=True)
class RouteStatus:
    peer: str
    nickname: str
    next_hop: str
    hops: int
    cost_us: int
    mtu: int
    broadcast_children: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """Gossip that was not believed: whose it was (its key, in hexadecimal) and who passed it on."""

    key: str
    reason: str
    source: str
    nickname: str | None
    detail: str
    count: int


@dataclass(frozen=True, slots=True)
class ChannelView:
    """One gossip channel; ``surrogate``: relayed for others, not understood here."""

    channel: str
    items: int
    octets: int
    surrogate: bool
    quiet_for: float | None
    rejected: dict[str, int]
    quarantine: tuple[RefusedItem, ...]


@dataclass(frozen=True, slots=True)
class RouterStatus:
    us: UsStatus
    peers: tuple[PeerStatus, ...]
    connections: tuple[ConnectionStatus, ...]
    targets: tuple[TargetStatus, ...]
    links: tuple[LinkStatus, ...]
    routes: tuple[RouteStatus, ...]
    channels: tuple[ChannelView, ...]
    counters: dict[str, int]
    worker_counters: object | None


def router_status(router: Router, now: Instant) -> RouterStatus:
    """Read a router; changes nothing."""
    return RouterStatus(
        us=_us(router),
        peers=_peers(router),
        connections=_connections(router, now),
        targets=_targets(router, now),
        links=link_status(router, now),
        routes=_routes(router),
        channels=_channels(router, now),
        counters=dict(sorted(router.hub.counters.items())),
        worker_counters=router.links.counters,
    )


def _channels(router: Router, now: Instant) -> tuple[ChannelView, ...]:
    return tuple(
        ChannelView(
            channel=channel.channel,
            items=channel.items,
            octets=channel.octets,
            surrogate=channel.surrogate,
            quiet_for=None if channel.changed_at is None else now - channel.changed_at,
            rejected=channel.rejected,
            quarantine=tuple(
                RefusedItem(
                    key=entry.key.hex(),
                    reason=entry.reason,
                    source=str(entry.source),
                    nickname=_nickname(router, entry.source),
                    detail=entry.detail,
                    count=entry.count,
                )
                for entry in channel.quarantine
            ),
        )
        for channel in router.rumours.engine.status()
    )


def _us(router: Router) -> UsStatus:
    hub, own = router.hub, router.topology.own
    return UsStatus(
        name=str(hub.us),
        uid=f"{hub.uid:016x}",
        nickname=hub.config.nickname,
        short_id=own.short_id,
        version=own.version,
        encrypted=hub.encrypted,
        passwords=tuple(p.id for p in hub.passwords.passwords),
        mtu=hub.mtu,
        port=hub.config.port,
        sleeve_port=hub.config.sleeve_port,
        probe_port=hub.config.probe_port,
        worker=router.links.worker_reason,
        clone_suspected=router.topology.clone_suspected,
        ciphers={cipher.value: cost for cipher, cost in sorted(hub.config.ciphers.items())},
    )


def _peers(router: Router) -> tuple[PeerStatus, ...]:
    us = router.hub.us
    return tuple(
        PeerStatus(
            name=str(name),
            nickname=record.nickname,
            uid=f"{record.uid:016x}",
            short_id=record.short_id,
            version=record.version,
            program=record.program,
            mtu=record.mtu,
            reachable=name == us or name in router.reachable,
            connections=tuple(str(edge.peer) for edge in record.edges),
        )
        for name, record in sorted(router.topology.records.items())
    )


def _nickname(router: Router, name: PeerName | None) -> str | None:
    record = None if name is None else router.topology.records.get(name)
    return None if record is None else record.nickname


def _connections(router: Router, now: Instant) -> tuple[ConnectionStatus, ...]:
    table = router.neighbours
    rows = []
    for conn, stream in table.streams.items():
        remote = stream.remote
        up = remote is not None and table.by_peer.get(remote.name) == conn
        watched = router.vigil.watched.get(remote.name) if remote is not None else None
        rows.append(
            ConnectionStatus(
                peer=None if remote is None else str(remote.name),
                nickname=None if remote is None else remote.nickname,
                remote=str(stream.endpoint),
                outbound=stream.outbound,
                state="established" if up else "handshake",
                reason="suspected" if watched is not None and watched.suspected else None,
                by_peer=False,
                explanation=None,
                age=now - stream.since,
                rtt=None if watched is None else watched.rtt,
                password=None if remote is None else remote.password_id,
                paused=stream.paused,
            )
        )
    rows.extend(
        ConnectionStatus(
            peer=None if ended.peer is None else str(ended.peer),
            nickname=_nickname(router, ended.peer),
            remote=ended.remote,
            outbound=ended.outbound,
            state="ended" if ended.was_up else "refused",
            reason=ended.reason,
            by_peer=ended.by_peer,
            explanation=explain(ended.reason, ended.by_peer),
            age=now - ended.at,
            rtt=None,
            password=None,
            paused=False,
        )
        for ended in reversed(table.ended)
    )
    return tuple(rows)


def _targets(router: Router, now: Instant) -> tuple[TargetStatus, ...]:
    return tuple(
        TargetStatus(
            target=str(row.target),
            state=str(row.state),
            origin=row.origin,
            last_error=row.last_error,
            tries=row.tries,
            next_attempt_in=None if row.next_attempt is None else max(0, row.next_attempt - now),
            peer=None if row.peer is None else str(row.peer),
        )
        for row in router.neighbours.maker.status()
    )


def _routes(router: Router) -> tuple[RouteStatus, ...]:
    return tuple(
        RouteStatus(
            peer=str(name),
            nickname=_nickname(router, name) or "",
            next_hop=str(route.next_hop),
            hops=route.hops,
            cost_us=route.cost_us,
            mtu=route.mtu,
            broadcast_children=tuple(str(child) for child in router.routes.broadcast(name)),
        )
        for name, route in sorted(router.routes.unicast.items())
    )
