"""What a router shows of the data path to each peer. See ``mesh.router.status``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.link.datapath import PeerCounters
from mesh.router.choices import Choice, Path
from mesh.router.directs import Direct
from mesh.router.fastpath import FastPath
from mesh.topology.routes import Route
from mesh.wire.worker import PeerCounters as WorkerCounters

if TYPE_CHECKING:
    from mesh.router.router import Router


IPV4_UDP, IPV6_UDP = 28, 48
"""Octets of IP and UDP header."""


@dataclass(frozen=True, slots=True)
class ChoiceStatus:
    """One way that frames were sent from ``ago`` seconds ago on, and why.

    ``after``: seconds the direct path was silent before it was left, or answered before it was
    taken.
    """

    overlay: str
    path: str
    next_hop: str | None
    reason: str
    ago: float
    after: float | None
    not_kernel: str | None


@dataclass(frozen=True, slots=True)
class KernelPathStatus:
    """The path to a neighbour in the kernel, also while frames take another.

    ``reason``: why it is well, or not. ``loss``: of heartbeats, there and back. ``mtu``: of pods'
    packets that it takes, which is what heartbeats ask for.
    """

    host: str
    well: bool
    reason: str
    rtt: float | None
    loss: float | None
    mtu: int


@dataclass(frozen=True, slots=True)
class TrafficStatus:
    """What the sleeve's worker counted of a peer since it was told of it, a second ago at most.

    ``record_limit``: octets that a record to it may have at present; ``datagrams_per_call``: sent.
    ``tx_loss``: the share of datagrams lost on the whole way there at present, relays included, by
    the peer's own reports; ``rx_lost``, ``rx_missing``: records and datagrams lost on the way here.
    """

    tx_frames: int
    tx_octets: int
    tx_records: int
    rx_frames: int
    rx_octets: int
    rx_records: int
    record_limit: int
    datagrams_per_call: float | None
    tx_loss: float
    rx_lost: int
    rx_missing: int
    drops: dict[str, int]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The data path to a peer: direct when ``next_hop`` is the peer itself.

    ``segment`` is of the whole path. ``rtt``, ``loss`` (of probes, there and back), ``mtu`` (of IP
    packets) and ``steady`` are the sleeve's direct path's, also while frames take another.
    ``not_kernel``: why frames do not go by the kernel, None where they do. ``kernel``: what it
    counted of the peer, added by who asks it. ``history``: the last choices, the newest first.
    """

    peer: str
    nickname: str
    overlay: str
    state: str
    reason: str
    since: float | None
    next_hop: str | None
    hops: int
    cost_us: int | None
    rtt: float | None
    loss: float | None
    steady: bool | None
    mtu: int | None
    segment: int
    endpoint: str | None
    epoch: int | None
    cipher: str | None
    key_age: float | None
    traffic: TrafficStatus | None
    not_kernel: str | None
    kernel_path: KernelPathStatus | None
    kernel: PeerCounters | None
    history: tuple[ChoiceStatus, ...]


def link_status(router: Router, now: Instant) -> tuple[LinkStatus, ...]:
    links, records = router.links, router.topology.records
    rows = []
    direct_ones = {p for p, d in links.direct.items() if d.up}
    for name in sorted(router.reachable | direct_ones | links.fastdp.ways.keys()):
        if name not in records:
            continue
        direct, pair = links.direct.get(name), links.pairs.get(name)
        route = router.routes.unicast.get(name)
        way = links.fastdp.ways.get(name)
        choice = links.choice(name, records, router.routes)
        made = links.choices.made(name)
        probe = direct.probe if direct is not None and direct.running else None
        lone = way is None and choice.path is Path.DIRECT
        lone = lone and (route is None or route.next_hop != name)
        rows.append(
            LinkStatus(
                peer=str(name),
                nickname=records[name].nickname,
                overlay=choice.overlay.value,
                state=choice.path.value,
                reason=choice.reason,
                since=None if not made or made[-1].differs(choice) else now - made[-1].at,
                next_hop=None if choice.next_hop is None else str(choice.next_hop),
                hops=way.hops if way is not None else _hops(lone, route),
                cost_us=None if route is None or lone else route.cost_us,
                rtt=None if direct is None else direct.rtt,
                loss=None if probe is None else probe.loss,
                steady=None if probe is None else probe.steady,
                mtu=_mtu(direct),
                segment=_segment(direct if lone else None, route),
                endpoint=None if direct is None else str(direct.endpoint),
                epoch=None if pair is None else pair.epoch,
                cipher=None if pair is None else pair.cipher,
                key_age=None if pair is None or pair.ready_at is None else now - pair.ready_at,
                traffic=_traffic(links.traffic_of(name), links.drops_of(name)),
                not_kernel=choice.not_kernel or None,
                kernel=None,
                kernel_path=_kernel_path(links.fastdp.paths.get(name)),
                history=tuple(_choice(entry, now) for entry in reversed(made)),
            )
        )
    return tuple(rows)


def _hops(lone: bool, route: Route | None) -> int:
    if lone:
        return 1
    return 0 if route is None else route.hops


def _kernel_path(path: FastPath | None) -> KernelPathStatus | None:
    if path is None:
        return None
    heart = path.heart
    rtt, loss = (None, None) if heart is None else (heart.rtt, heart.loss)
    return KernelPathStatus(path.host, path.well, path.reason, rtt, loss, path.mtu)


def _traffic(counted: WorkerCounters | None, drops: dict[str, int]) -> TrafficStatus | None:
    if counted is None:
        return None
    calls = counted.tx_calls
    return TrafficStatus(
        tx_frames=counted.tx_frames,
        tx_octets=counted.tx_octets,
        tx_records=counted.tx_records,
        rx_frames=counted.rx_frames,
        rx_octets=counted.rx_octets,
        rx_records=counted.rx_records,
        record_limit=counted.record_limit,
        datagrams_per_call=counted.tx_datagrams / calls if calls else None,
        tx_loss=counted.tx_loss_ppm / 1e6,
        rx_lost=counted.rx_lost,
        rx_missing=counted.rx_missing,
        drops=drops,
    )


def _segment(lone: Direct | None, route: Route | None) -> int:
    if lone is not None:
        return lone.segment
    return 0 if route is None else route.mtu


def _mtu(direct: Direct | None) -> int | None:
    """Octets of the largest IP packet that the direct path was seen to carry from here."""
    if direct is None or not direct.up:
        return None
    return direct.segment + (IPV6_UDP if ":" in direct.endpoint.host else IPV4_UDP)


def _choice(entry: Choice, now: Instant) -> ChoiceStatus:
    return ChoiceStatus(
        overlay=entry.overlay.value,
        path=entry.path.value,
        next_hop=None if entry.next_hop is None else str(entry.next_hop),
        reason=entry.reason,
        ago=now - entry.at,
        after=entry.after,
        not_kernel=entry.not_kernel or None,
    )
