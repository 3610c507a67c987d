"""What a router tells its owner: things that happened, in the past tense."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.names import Endpoint, PeerName


@dataclass(frozen=True, slots=True)
class UnicastReceived:
    """A message of a peer, its signature checked, on a channel the router does not use itself."""

    src: PeerName
    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeersChanged:
    """The set of other peers that control messages reach changed."""

    reachable: frozenset[PeerName]


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A peer was unreachable for so long that its record was collected."""

    peer: PeerName


@dataclass(frozen=True, slots=True)
class ConnectionUp:
    peer: PeerName
    nickname: str
    remote: Endpoint
    outbound: bool


@dataclass(frozen=True, slots=True)
class ConnectionDown:
    """A connection or an attempt at one ended; ``by_peer`` when the other end said why."""

    peer: PeerName | None
    remote: str
    reason: str
    by_peer: bool
    established: bool


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The direct data path to a neighbour came up or went down."""

    peer: PeerName
    up: bool
    reason: str


@dataclass(frozen=True, slots=True)
class KernelPathChanged:
    """The kernel's path to a neighbour is well, or not: its heartbeats say so."""

    peer: PeerName
    well: bool
    reason: str


@dataclass(frozen=True, slots=True)
class PathChanged:
    """Frames to a peer go another way: ``path`` is direct, relayed or down."""

    peer: PeerName
    path: str
    next_hop: PeerName | None
    reason: str
    overlay: str = "sleeve"
    not_kernel: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something gossiped did not merge; it was set aside and is not relayed."""

    channel: str
    key: bytes
    reason: str
    source: PeerName


@dataclass(frozen=True, slots=True)
class ChannelChanged:
    channel: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CloneSuspected:
    """Somebody else keeps publishing under our name: another host has our identity."""


RouterEvent = (
    UnicastReceived
    | PeersChanged
    | PeerGone
    | ConnectionUp
    | ConnectionDown
    | LinkChanged
    | KernelPathChanged
    | PathChanged
    | Quarantined
    | ChannelChanged
    | CloneSuspected
)
